"""Images and masks of the DeepFloyd IF pipelines, read bit for bit as diffusers does."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput, mask_arrays
from diffoundry.runtime.images.pixels import ImageInput, check_pil, read_pixels
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.tasks.source_images import image_size, latents_of

__all__ = ["check_count", "fitted_size", "read_images", "read_masks", "start_size"]

_CHANNELS = 3
_MULTIPLE = 8
"""Pixels by which the longer side of a PIL image is rounded."""


def fitted_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size of a PIL image whose shorter side becomes `side` pixels. diffusers: `resize`."""
    proportion, steps = width / height, side / _MULTIPLE
    if proportion >= 1:
        return side, int(round(steps * proportion) * _MULTIPLE)
    return int(round(steps / proportion) * _MULTIPLE), side


def start_size(image: ImageInput, side: int, name: str) -> tuple[int, int]:
    """Return height and width of the images that a run starts from, after PIL images are resized.

    Raises:
        InputError: They are no images, or of several sizes.
    """
    rows = _read_rows(image, name)
    if rows is not None:
        return rows.shape[2], rows.shape[3]
    height, width = image_size(image, name)
    return fitted_size(height, width, side) if _is_pil(image) else (height, width)


def read_images(image: ImageInput, name: str, side: int | None = None) -> FloatArray:
    """Read images, float32 (n, 3, H, W) in -1..1; arrays and tensors are taken as they are.

    diffusers: `preprocess_image` of `IFImg2ImgPipeline` with a side, and of `IFSuperResolutionPipeline` without.

    Args:
        image: Images, all of one size.
        name: Name of the argument, for messages.
        side: Pixels of the shorter side, to which PIL images are resized; None keeps their size.

    Raises:
        InputError: Not such images.
    """
    rows = _read_rows(image, name)
    if rows is not None:
        return rows
    height, width = image_size(image, name)
    if not _is_pil(image):
        return read_pixels(image, name)
    items: list[Any] = list(image) if isinstance(image, Sequence) else [image]
    check_pil(items, name)
    from PIL.Image import Resampling

    pixels = [item.convert("RGB") for item in items]
    if side is not None:
        height, width = fitted_size(height, width, side)
        pixels = [item.resize((width, height), resample=Resampling.BICUBIC) for item in pixels]
    stacked = np.stack([np.asarray(item) for item in pixels]).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def _read_rows(image: ImageInput, name: str) -> FloatArray | None:
    """Return an array or a tensor (n, 3, H, W) in -1..1 as it is; None for other images."""
    rows = latents_of(image, _CHANNELS)
    if rows is None:
        return None
    if isinstance(image, np.ndarray) and image.dtype.kind != "f":
        raise InputError(
            f"{name}: got an array of {image.dtype}, expected floats in -1..1; pass a PIL image, or divide by 127.5 "
            f"and subtract 1"
        )
    if not np.isfinite(rows).all():
        raise InputError(f"{name}: got NaN or infinity, expected finite numbers")
    return rows


def read_masks(mask: MaskInput, side: int, size: tuple[int, int]) -> FloatArray:
    """Read masks: ones where the image is generated and zeros where it is kept, float32 (n, 1, H, W).

    diffusers: `IFInpaintingPipeline.preprocess_mask_image`.

    Args:
        mask: PIL images, resized as `read_images` does, or arrays in 0..1 as in `mask_arrays`.
        side: Pixels of the shorter side.
        size: Height and width of the image.

    Raises:
        InputError: Not such masks, or of another size than the image.
    """
    values = mask_arrays(mask)
    if values is None:
        items: list[Any] = list(mask) if isinstance(mask, Sequence) else [mask]
        if not items:
            raise InputError("mask_image: got an empty list, expected at least one mask")
        check_pil(items, "mask_image")
        from PIL.Image import Resampling

        sizes = [fitted_size(item.height, item.width, side) for item in items]
        greys = [
            item.convert("L").resize((width, height), resample=Resampling.BICUBIC)
            for item, (height, width) in zip(items, sizes, strict=True)
        ]
        different = next((found for found in sizes if found != size), None)
        values = np.stack([np.asarray(grey).astype(np.float32) / 255.0 for grey in greys]) if not different else None
    else:
        different = values.shape[1:] if values.shape[1:] != size else None
    if different:
        raise InputError(
            f"mask_image: got {different[1]} x {different[0]} pixels, expected {size[1]} x {size[0]}, the size of the "
            f"image"
        )
    assert values is not None, "all masks have the size"
    return (values >= 0.5).astype(np.float32)[:, None]


def check_count(count: int, prompts: int, images: int, name: str) -> None:
    """Refuse a number of images other than one, one for each prompt, or one for each image.

    Raises:
        InputError: As said.
    """
    if count not in (1, prompts, images):
        raise InputError(f"{name}: got {count} for {prompts} prompts, expected one, or one for each")


def _is_pil(image: Any) -> bool:
    first = image[0] if isinstance(image, Sequence) else image
    return hasattr(first, "getbands")
