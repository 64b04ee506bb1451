"""Weights of one IP-Adapter file for FLUX.1, in the names of XLabs or of diffusers' others."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffoundry.exporter.checkpoints.ip_adapter_weights import IPAdapterWeights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FLUX_ATTENTION", "FLUX_PROJECTION", "FluxIPAdapterWeights"]

FLUX_PROJECTION = ("ip_adapter_proj_model.", "image_proj.")
"""Beginnings of the names of a projection's tensors."""

FLUX_ATTENTION = re.compile(
    r"(?:double_blocks|ip_adapter)\.(\d+)\.(?:processor\.)?(?:ip_adapter_double_stream_([kv])_proj|to_([kv])_ip)\."
    r"(weight|bias)"
)
"""Names of the projections of keys and values: the block, k or v in either name, and the kind of tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FluxIPAdapterWeights(IPAdapterWeights):
    """A `WeightSource` for the projection of an IP-Adapter of FLUX.1. diffusers: `FluxIPAdapterMixin`."""

    @staticmethod
    def place(name: str) -> tuple[str, str] | None:
        """See `IPAdapterWeights.place`."""
        start = next((one for one in FLUX_PROJECTION if name.startswith(one)), None)
        if start is not None:
            return "image_proj", name.removeprefix(start)
        match = FLUX_ATTENTION.fullmatch(name)
        return None if match is None else ("ip_adapter", f"{match[1]}.to_{match[2] or match[3]}_ip.{match[4]}")

    @staticmethod
    def loaders() -> Any:
        """See `IPAdapterWeights.loaders`."""
        from diffusers.loaders.transformer_flux import FluxTransformer2DLoadersMixin

        return FluxTransformer2DLoadersMixin

    @staticmethod
    def processors(network: Any, states: "Sequence[Mapping[str, Any]]") -> "dict[str, Any]":
        """See `IPAdapterWeights.processors`. diffusers: `_convert_ip_adapter_attn_to_diffusers`, in fp32 on the CPU."""
        from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

        found = dict(network.attn_processors)
        double = [name for name in found if name.startswith("transformer_blocks.")]
        for number, name in enumerate(double):
            made = FluxIPAdapterAttnProcessor(
                network.inner_dim, network.config.joint_attention_dim, num_tokens=(4,) * len(states)
            )
            made.load_state_dict(
                {
                    f"{part}.{index}.{kind}": state["ip_adapter"][f"{number}.{part}.{kind}"]
                    for index, state in enumerate(states)
                    for part in ("to_k_ip", "to_v_ip")
                    for kind in ("weight", "bias")
                }
            )
            found[name] = made
        return found
