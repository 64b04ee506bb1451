"""Adds LoRAs to the weights of a torch module before it is traced."""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

import torch

from diffoundry.exporter.checkpoints.control_lora import ControlParts, norm_lengths, read_control_parts
from diffoundry.exporter.checkpoints.deferred_weights import deferred_weights
from diffoundry.exporter.component import Config
from diffoundry.runtime.adapters.lora import Factors, Host, read_lora
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.specs import FusedLora
from diffoundry.runtime.errors import CheckpointError

__all__ = ["fuse_loras"]


def fuse_loras(
    module: torch.nn.Module,
    component: str,
    loras: Iterable[FusedLora],
    config: Config,
    present: Collection[str],
    *,
    deferred: bool = False,
) -> None:
    """Add LoRAs: W' = W + scale up down for every layer that a LoRA names; diffusers: `fuse_lora`.

    Args:
        module: In fp32; changed in place, except for weights in a mapped file.
        component: Its folder in the checkpoint.
        loras: In the order in which they are added.
        config: The component's config.json.
        present: The folders of all components.
        deferred: True adds a LoRA to a weight when `deferred_weights` reads it.

    Raises:
        CheckpointError: A file's checksum has changed.
        InputError: A file is no LoRA, or does not fit the module.
    """
    layers = {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, torch.nn.Linear) or (isinstance(child, torch.nn.Conv2d) and child.groups == 1)
    }
    later = deferred_weights(module)
    host = Host(layers={name: tuple(child.weight.shape) for name, child in layers.items()}, config=config)
    for wanted in loras:
        found = sha256_of(Path(wanted.file))
        if found != wanted.sha256:
            raise CheckpointError(
                f"LoRA {wanted.file}: got SHA-256 {found[:16]}..., expected {wanted.sha256[:16]}...; it was changed "
                f"since the export began, run it again"
            )
        parts = ControlParts()
        if config.get("_class_name") == "FluxTransformer2DModel":
            parts = read_control_parts(Path(wanted.file), host, norm_lengths(module))
        lora = read_lora(Path(wanted.file), {component: host}, present, parts.tensors)
        changes: list[tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]] = []
        for name, factors in lora.factors.get(component, {}).items():
            changes.append((layers[name].weight, partial(_fused, factors=factors, scale=wanted.scale)))
        for name, bias in parts.biases.items():
            own = layers[name].bias
            assert own is not None, "every linear layer of FLUX.1 has one"
            changes.append((own, partial(_moved, change=torch.from_numpy(bias), scale=wanted.scale)))
        for tensor, fuse in changes:
            tensor.data = later.change(tensor, fuse) if deferred else fuse(tensor.data)
        for name, values in parts.norms.items():
            module.get_parameter(name).data = torch.from_numpy(values)


def _moved(bias: torch.Tensor, change: torch.Tensor, scale: float) -> torch.Tensor:
    return bias + scale * change


def _fused(weight: torch.Tensor, factors: Factors, scale: float) -> torch.Tensor:
    down, up = torch.from_numpy(factors.down), torch.from_numpy(factors.up)
    change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    return weight + scale * change
