"""Inputs of a denoiser's graph for image prompts, from a recorded call of diffusers' denoiser."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffoundry.exporter.component import Component
from diffoundry.runtime.bundle.dims import parse_size, size_of
from diffoundry.runtime.models.image_projection import embeds_name, is_image_prompt_input, level_of_mask, scale_name

__all__ = ["image_prompt_feeds"]


def image_prompt_feeds(
    denoiser: Any, component: Component, passed: Mapping[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """Compute the inputs that diffusers' denoiser makes of encoded images, without masks; none without inputs.

    Args:
        denoiser: A UNet, or the transformer of FLUX.1.
        component: The denoiser.
        passed: Arguments of its `forward`.
    """
    specs = {spec.name: spec for spec in component.inputs if is_image_prompt_input(spec.name)}
    if not specs:
        return {}
    with torch.no_grad():
        tokens = [one.numpy() for one in denoiser.encoder_hid_proj(_encoded_images(passed))]
    rows = len(tokens[0])
    processors = [one for one in denoiser.attn_processors.values() if hasattr(one, "to_k_ip")]
    feeds = {}
    for index, one in enumerate(tokens):
        feeds[embeds_name(index)] = one.reshape(rows, 1, -1, one.shape[-1])
        scales = np.asarray([processor.scale[index] for processor in processors], np.float32)
        feeds[scale_name(index)] = np.tile(scales[None, :, None], (rows, 1, 1))
    masks = {name: spec for name, spec in specs.items() if level_of_mask(name) is not None}
    if not masks:
        return feeds
    latents = zip(component.inputs[0].shape, passed["sample"].shape, strict=True)
    sizes = {parse_size(str(dim)).symbol: size * parse_size(str(dim)).divisor for dim, size in latents}
    for name, spec in masks.items():
        sides = [size_of(dim, sizes) or 0 for dim in spec.shape[2:]]
        feeds[name] = np.ones((rows, 1, *sides), np.float32)
    return feeds


def _encoded_images(passed: Mapping[str, Any]) -> Any:
    """Return the encoded images of a call of a UNet, or of the transformer of FLUX.1."""
    if "added_cond_kwargs" in passed:
        return passed["added_cond_kwargs"]["image_embeds"]
    return passed["joint_attention_kwargs"]["ip_adapter_image_embeds"]
