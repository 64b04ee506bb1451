"""Finds the networks and tokenizers of a diffusers pipeline by the names of our components."""

import inspect
from typing import Any

import diffusers

from diffoundry.runtime.models.controlnet import controlnet_name
from diffoundry.runtime.models.image_projection import ip_adapter_name, is_ip_adapter
from diffoundry.runtime.models.t2i_adapter import is_t2i_adapter, t2i_adapter_name

__all__ = ["control_names", "image_projections", "network", "t2i_adapters", "takes", "tokenizer_of"]


def network(pipeline: Any, source: str) -> Any:
    """Find the module of a diffusers pipeline for a folder of the checkpoint."""
    if is_t2i_adapter(source):
        return t2i_adapters(pipeline)[source]
    if is_ip_adapter(source):
        return image_projections(pipeline)[source]
    names = control_names(pipeline)
    if source not in names or len(names) == 1:
        return getattr(pipeline, source)
    return pipeline.controlnet.nets[names.index(source)]


def tokenizer_of(pipeline: Any, folder: str) -> Any:
    """Return the tokenizer of a folder of the checkpoint, which some classes have in their processor alone."""
    found = getattr(pipeline, folder) if hasattr(pipeline, folder) else pipeline.processor
    return getattr(found, "tokenizer", found)


def control_names(pipeline: Any) -> tuple[str, ...]:
    """Names of our components for the ControlNets of a diffusers pipeline."""
    nets = getattr(pipeline, "controlnet", None)
    if nets is None:
        return ()
    count = len(getattr(nets, "nets", [nets]))
    return tuple(controlnet_name(index) for index in range(count))


def t2i_adapters(pipeline: Any) -> dict[str, Any]:
    """Map names of our components to the T2I-Adapters of a diffusers pipeline."""
    found = getattr(pipeline, "adapter", None)
    if found is None:
        return {}
    modules = found.adapters if isinstance(found, diffusers.MultiAdapter) else [found]
    return {t2i_adapter_name(index): module for index, module in enumerate(modules)}


def image_projections(pipeline: Any) -> dict[str, Any]:
    """Map names of our components to the projections of the IP-Adapters of a diffusers pipeline."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    multi = getattr(denoiser, "encoder_hid_proj", None)
    layers = getattr(multi, "image_projection_layers", ())
    return {ip_adapter_name(index): layer for index, layer in enumerate(layers)}


def takes(pipeline: Any, name: str) -> bool:
    """Return whether calls of a diffusers pipeline have an argument of this name."""
    return name in inspect.signature(pipeline.__call__).parameters
