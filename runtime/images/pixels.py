"""Converts images for the VAE, bit for bit as diffusers' `VaeImageProcessor`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import Tensor, channels_last

if TYPE_CHECKING:  # Pillow takes 0.2 s to import: only code that handles images pays for it
    from PIL.Image import Image

__all__ = [
    "ImageInput",
    "check_pil",
    "describe_image_fault",
    "preprocess",
    "read_pixels",
    "resize_nearest",
    "snap_size",
]

_Array: TypeAlias = NDArray[np.floating[Any]] | Tensor

ImageInput: TypeAlias = "Image | _Array | Sequence[Image] | Sequence[_Array]"
"""A PIL image; an array (H, W, 3) or (B, H, W, 3) of floats; a tensor of torch, (3, H, W) or (B, 3, H, W); or a list of
one of these kinds, with arrays and tensors of one shape and three axes."""

# Modes whose samples are 8 bits a channel; PIL's conversion of the others to RGB cuts off instead of scaling.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")


def snap_size(height: int, width: int, factor: int = 8) -> tuple[int, int]:
    """Round a height and width in pixels down to multiples of `factor`.

    diffusers: `VaeImageProcessor.get_default_height_width`.

    Args:
        height: Pixels.
        width: Pixels.
        factor: Pixels per latent.

    Raises:
        InputError: A side would become 0.
    """
    if min(height, width) < factor:
        raise InputError(f"image: got {width} x {height} pixels, expected at least {factor} x {factor}; enlarge it")
    return height - height % factor, width - width % factor


def preprocess(
    image: ImageInput, height: int | None = None, width: int | None = None, *, factor: int = 8, name: str = "image"
) -> NDArray[np.float32]:
    """Prepare images for the VAE encoder: read as by `read_pixels`, resized and scaled to -1..1.

    PIL images are resized with Lanczos and converted to RGB, arrays are resized to the nearest pixel.
    diffusers: `VaeImageProcessor(vae_scale_factor=factor, do_convert_rgb=True).preprocess`.

    Args:
        image: Images; arrays and tensors in 0..1. Those of float64 are rounded to float32 first.
        height: Pixels, rounded down by `snap_size`; by default those of the first image.
        width: As `height`.
        factor: Pixels per latent.
        name: Name of the argument, for messages.

    Returns:
        float32, (B, 3, H, W), in -1..1.

    Raises:
        InputError: Not such images, or a size below `factor`.
    """
    images = _as_list(image, name)
    if isinstance(images[0], np.ndarray):
        pixels = _stack(images, name)
        _check_range(pixels, name)
        height, width = snap_size(height or pixels.shape[1], width or pixels.shape[2], factor)
        pixels = resize_nearest(pixels, height, width)
    else:
        height, width = snap_size(height or images[0].height, width or images[0].width, factor)
        pixels = np.stack([_resize_pil(item, height, width) for item in images])
    return np.ascontiguousarray((pixels * 2 - 1).transpose(0, 3, 1, 2), dtype=np.float32)


def read_pixels(image: ImageInput, name: str = "image") -> NDArray[np.float32]:
    """Read images in their own size, without the VAE's scaling: PIL images in 0..1, arrays and tensors as they are.

    diffusers: `VaeImageProcessor(do_convert_rgb=True, do_normalize=False).preprocess`.

    Args:
        image: Images; arrays and tensors of any finite floats, such as -1 where an image is masked.
        name: Name of the argument, for messages.

    Returns:
        float32, (B, 3, H, W).

    Raises:
        InputError: Not such images.
    """
    images = _as_list(image, name)
    if isinstance(images[0], np.ndarray):
        pixels = _stack(images, name)
        if not np.isfinite(pixels).all():
            raise InputError(f"{name}: got NaN or infinity, expected finite numbers")
    else:
        pixels = np.stack([_resize_pil(item, item.height, item.width) for item in images])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)


def _as_list(image: ImageInput, name: str) -> list[Any]:
    """Return the images of a call, at least one: PIL images only, or arrays only."""
    taken = channels_last(image)
    images = list(taken) if isinstance(taken, list) else [taken]
    if not images:
        raise InputError(f"{name}: got an empty list, expected at least one image")
    if not all(isinstance(item, np.ndarray) for item in images):
        check_pil(images, name)
    return images


def describe_image_fault(image: "Image | NDArray[Any]") -> str | None:
    """Describe an obvious fault of one image: NaN, infinity, or a single colour. None when there is none.

    A half-precision engine that overflows gives such images, and so does a VAE without weights. Two neighbouring
    levels of 256 still count as one colour, because rounding turns a flat value into both.

    Args:
        image: A PIL image, or an array (C, H, W) or (H, W, C) of 8-bit integers or floats in 0..1 or -1..1,
            the channels being the axis shorter than 5.

    Raises:
        InputError: An array of another shape.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or min(pixels.shape[0], pixels.shape[2]) > 4 or not pixels.size:
        raise InputError(f"image: got shape {pixels.shape}, expected (3, height, width) or (height, width, 3)")
    if pixels.shape[2] > 4:
        pixels = np.moveaxis(pixels, 0, 2)
    level = 1.0
    if np.issubdtype(pixels.dtype, np.floating):
        broken = pixels.size - int(np.isfinite(pixels).sum())
        if broken:
            return f"{broken} of {pixels.size} values are NaN or infinite; use a higher precision"
        pixels, level = np.clip(pixels, -1, 1), 1 / 255
    spread = pixels.max(axis=(0, 1)).astype(np.float64) - pixels.min(axis=(0, 1))
    if (spread <= level).all():
        colour = ", ".join(f"{value:.3g}" for value in pixels[0, 0].astype(np.float64))
        return f"the image is one colour ({colour}); verify the bundle, or use a higher precision"
    return None


def check_pil(images: Sequence[Any], name: str) -> None:
    """Raise unless all are PIL images of 8 bits a channel.

    Args:
        images: At least one.
        name: Name of the argument.

    Raises:
        InputError: Another type, or a mode of more bits.
    """
    from PIL.Image import Image

    for item in images:
        if not isinstance(item, Image):
            kind = type(item).__name__
            raise InputError(f"{name}: got {kind}, expected PIL images, or only arrays of floats in 0..1; convert it")
        if item.mode not in _MODES:
            raise InputError(
                f"{name}: got the PIL mode {item.mode!r}, expected 8 bits a channel such as 'RGB'; scale and convert it"
            )


def _resize_pil(image: "Image", height: int, width: int) -> NDArray[np.float32]:
    """(H, W, 3) in 0..1; resized before the conversion to RGB, in diffusers' order."""
    from PIL.Image import Resampling

    resized = image.resize((width, height), resample=Resampling.LANCZOS).convert("RGB")
    return np.asarray(resized).astype(np.float32) / 255.0


def _stack(images: Sequence[NDArray[Any]], name: str) -> NDArray[Any]:
    """(B, H, W, 3), checked."""
    if len({item.shape for item in images}) > 1:
        raise InputError(f"{name}: got arrays of shapes {sorted({item.shape for item in images})}, expected only one")
    pixels = images[0] if len(images) == 1 and images[0].ndim == 4 else np.stack(images)
    if pixels.ndim != 4 or pixels.shape[3] != 3 or not pixels.size:
        raise InputError(
            f"{name}: got an array of shape {images[0].shape}, expected (height, width, 3), or a tensor (3, height, "
            f"width)"
        )
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(
            f"{name}: got an array of {pixels.dtype}, expected floats in 0..1; pass a PIL image or divide by 255"
        )
    return pixels.astype(np.float32) if pixels.dtype.itemsize > 4 else pixels


def _check_range(pixels: NDArray[Any], name: str) -> None:
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"{name}: got an array with values from {pixels.min():g} to {pixels.max():g}, expected 0 to 1; scale it"
        )


def resize_nearest(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize pixels (B, H, W, C).

    torch: `interpolate(mode="nearest")`, whose index is floor(i * scale) in float32.
    """
    for axis, size in ((1, height), (2, width)):
        scale = np.divide(pixels.shape[axis], size, dtype=np.float32)
        index = np.multiply(np.arange(size), scale, dtype=np.float32).astype(np.intp)
        pixels = pixels.take(np.minimum(index, pixels.shape[axis] - 1), axis=axis)
    return pixels
