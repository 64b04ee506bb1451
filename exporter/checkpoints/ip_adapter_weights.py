"""Weights of one IP-Adapter file: the projection is a network of its own, the attention becomes part of the UNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # reached lazily: the process that only plans an export stays free of torch
    import torch

__all__ = ["ATTENTION", "PROJECTION", "IPAdapterWeights", "add_image_prompts"]

PROJECTION, ATTENTION = "image_proj.", "ip_adapter."
"""Beginnings of the names of tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IPAdapterWeights:
    """A `WeightSource` for the projection of an IP-Adapter.

    Attributes:
        folder: Folder with config.json.
        path: The file.
    """

    folder: Path
    path: Path

    def load(self, module_class: str, *, deferred: bool = False) -> "torch.nn.Module":  # noqa: ARG002  # small
        """See `WeightSource.load`. diffusers: `_convert_ip_adapter_image_proj_to_diffusers`."""
        made = self.convert_projection(self.read()["image_proj"])
        return made.eval().requires_grad_(requires_grad=False)

    def files(self) -> Mapping[str, Path]:
        """See `WeightSource.files`."""
        return {self.path.name: self.path}

    def notices(self, name: str) -> list[str]:  # noqa: ARG002
        """See `WeightSource.notices`."""
        return []

    def read(self) -> dict[str, dict[str, "torch.Tensor"]]:
        """Read all weights as diffusers' `load_ip_adapter` sorts them, in fp32."""
        from safetensors.torch import load_file

        parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in load_file(self.path).items():
            place = self.place(name)
            if place is not None:
                part, name_there = place
                parts[part][name_there] = tensor.float()
        return parts

    @staticmethod
    def place(name: str) -> tuple[str, str] | None:
        """Return "image_proj" or "ip_adapter" and the name of a tensor in it; None if it belongs to neither."""
        start = next((one for one in (PROJECTION, ATTENTION) if name.startswith(one)), None)
        return None if start is None else (start.removesuffix("."), name.removeprefix(start))

    @classmethod
    def convert_projection(cls, weights: "Mapping[str, torch.Tensor]") -> "torch.nn.Module":
        """Build the projection that weights under the names of an IP-Adapter file belong to."""
        convert: Any = cls.loaders()._convert_ip_adapter_image_proj_to_diffusers  # noqa: SLF001  # diffusers has no public way
        made: torch.nn.Module = convert(None, weights, low_cpu_mem_usage=False)
        return made

    @staticmethod
    def loaders() -> Any:
        """Return diffusers' class of functions that convert such files."""
        from diffusers.loaders.unet import UNet2DConditionLoadersMixin

        return UNet2DConditionLoadersMixin

    @staticmethod
    def processors(network: Any, states: "Sequence[Mapping[str, Any]]") -> "dict[str, Any]":
        """Return the attention processors of a network with IP-Adapters, by the names of `attn_processors`.

        Args:
            network: diffusers' denoiser.
            states: Weights of each IP-Adapter, as `read` returns them.
        """
        convert: Any = network._convert_ip_adapter_attn_to_diffusers  # noqa: SLF001  # as above
        found: dict[str, Any] = convert(states, low_cpu_mem_usage=False)
        return found


def add_image_prompts(network: Any, adapters: Sequence[IPAdapterWeights]) -> None:
    """Add the attention and the projections of IP-Adapters to diffusers' denoiser.

    diffusers: `_load_ip_adapter_weights` of its UNet and of FLUX.1, without their moves to another device.
    """
    from diffusers.models.embeddings import MultiIPAdapterImageProjection

    states, (kind, *_) = [adapter.read() for adapter in adapters], adapters
    network.set_attn_processor(kind.processors(network, states))
    projections = [kind.convert_projection(state["image_proj"]) for state in states]
    network.encoder_hid_proj = MultiIPAdapterImageProjection(projections)
    network.config.encoder_hid_dim_type = "ip_image_proj"
    network.eval().requires_grad_(requires_grad=False)
