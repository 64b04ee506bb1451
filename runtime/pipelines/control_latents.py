"""Encodes the images of ControlNets that see latents, as those of Stable Diffusion 3 and FLUX.1 do."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import mask_arrays, preprocess_mask
from diffoundry.runtime.images.pixels import preprocess, read_pixels
from diffoundry.runtime.images.tensors import is_tensor
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.tasks.source_images import image_size
from diffoundry.runtime.random import Generator

__all__ = ["control_latents", "control_pixels"]


def control_latents(
    model: ControlNetModel,
    image: Any,
    mask: Any,
    vae: AutoencoderKL,
    generator: Generator | Sequence[Generator],
    *,
    rows: int,
    copies: int,
    guidance_copies: int,
) -> FloatArray:
    """Return the condition of a ControlNet, float32 (guidance_copies * rows, C, h, w).

    diffusers: `prepare_image` of `StableDiffusion3ControlNetPipeline` and `FluxControlNetPipeline`, whose latents are
    drawn for every row, and `prepare_image_with_mask` of `StableDiffusion3ControlNetInpaintingPipeline`, which draws
    them for every image.

    Args:
        model: The ControlNet.
        image: An image for all, or a list with one for each prompt: PIL images, arrays in 0..1, or tensors as they are.
        mask: As many, white where the image is generated; None for networks without a mask.
        vae: Encodes the image.
        generator: Of these draws: one, or one for each row.
        rows: Images that are generated.
        copies: Images for every prompt.
        guidance_copies: Rows of the denoiser for each.

    Raises:
        InputError: An image or a mask does not fit.
    """
    pixels = control_pixels(image)
    order = np.repeat(np.arange(len(pixels)), rows if len(pixels) == 1 else copies)
    if not model.takes_mask:
        if not model.draws_image:
            return vae.normalize(vae.mode(pixels))[np.tile(order, guidance_copies)]
        drawn = vae.sample(pixels[np.tile(order, guidance_copies)], generator)
        return vae.normalize(drawn) if model.shifts_latents else vae.scaling_factor * drawn
    masks = _masks(mask, pixels)
    drawn = vae.normalize(vae.sample(np.where(masks > 0.5, np.float32(-1), pixels)[order], generator))
    factor = vae.scale_factor
    kept = (np.float32(1) - masks[:, :, ::factor, ::factor])[order if len(masks) > 1 else np.zeros_like(order)]
    return np.concatenate([np.concatenate([drawn, kept], axis=1)] * guidance_copies)


def control_pixels(image: Any) -> FloatArray:
    """Return pixels (n, 3, H, W) in -1..1 of PIL images or arrays in 0..1, and tensors as they are."""
    items = image if isinstance(image, list | tuple) else [image]
    if is_tensor(items[0]):
        return read_pixels(image, "control_image")
    return preprocess(image, factor=1, name="control_image")


def _masks(mask: Any, pixels: FloatArray) -> FloatArray:
    """Return masks (n, 1, H, W) of ones and zeros.

    Raises:
        InputError: Their number or size is not that of the images.
    """
    arrays = mask_arrays(mask)
    size = image_size(mask, "control_mask") if arrays is None else arrays.shape[1:3]
    height, width = pixels.shape[2:]
    if tuple(size) != (height, width):
        raise InputError(
            f"control_mask: got {size[1]} x {size[0]} pixels, expected those of control_image, {width} x {height}"
        )
    masks = preprocess_mask(mask, height, width, name="control_mask")
    if len(masks) not in (1, len(pixels)):
        raise InputError(f"control_mask: got {len(masks)} for {len(pixels)} images, expected one, or one for each")
    return masks
