"""Checks and reads the images of a call, so that nothing is resized or ignored silently."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput, preprocess
from diffoundry.runtime.images.read import is_transparent
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.inputs import CommonInputs

__all__ = ["check_own_size", "fill_batch", "image_size", "latents_of", "read_image", "read_transparent"]

if TYPE_CHECKING:
    from PIL.Image import Image


def latents_of(image: Any, channels: int) -> FloatArray | None:
    """Return the image of a call as float32 latents (B, channels, h, w), or None for an image.

    diffusers also takes a tensor with as many channels for latents.
    """
    if is_tensor(image):
        found = image.ndim == 4 and image.shape[1] == channels
        return to_array(image).astype(np.float32) if found else None
    if isinstance(image, np.ndarray) and image.ndim == 4 and image.shape[1] == channels and image.shape[3] != 3:
        return image.astype(np.float32)
    return None


def image_size(image: ImageInput, name: str = "image") -> tuple[int, int]:
    """Return height and width in pixels of images, all of one size.

    Raises:
        InputError: They differ, one is no image, or one has transparent pixels, whose alpha would be ignored.
    """
    items: list[Any] = list(image) if isinstance(image, Sequence) else [image]
    sizes = set()
    for item in items:
        if isinstance(item, np.ndarray) or is_tensor(item):
            sizes.add(_array_size(item, name))
            continue
        if not hasattr(item, "getbands"):
            raise InputError(f"{name}: got {type(item).__name__}, expected a PIL image or an array of floats in 0..1")
        if is_transparent(item):
            raise InputError(
                f"{name}: got an image with transparency, expected one without; paste it on a background and "
                f"convert it to RGB"
            )
        sizes.add((item.height, item.width))
    if len(sizes) != 1:
        found = ", ".join(f"{size[-1]} x {size[0]}" for size in sorted(sizes)) or "no image"
        raise InputError(f"{name}: got {found}, expected images of one size")
    height, width = sizes.pop()
    return height, width


def _array_size(array: Any, name: str) -> tuple[int, int]:
    """Return height and width of an array (..., H, W, C), or of a tensor (..., C, H, W)."""
    shape = tuple(int(size) for size in array.shape)
    if len(shape) not in (3, 4):
        raise InputError(
            f"{name}: got an array of shape {shape}, expected (height, width, 3), or a tensor (3, height, width)"
        )
    height, width = shape[-2:] if is_tensor(array) else shape[-3:-1]
    return height, width


def check_own_size(inputs: CommonInputs, height: int, width: int, factor: int) -> None:
    """Refuse an image of another size than the generated one.

    Args:
        inputs: May name a size too.
        height: Pixels of the image.
        width: Pixels of the image.
        factor: Pixels to a latent.

    Raises:
        InputError: Its sides are no multiples of the factor, or the call names another size.
    """
    if height % factor or width % factor:
        raise InputError(f"image: got {width} x {height} pixels, expected multiples of {factor}; resize or crop it")
    for name, side in (("height", height), ("width", width)):
        asked = getattr(inputs, name)
        if asked is not None and asked != side:
            raise InputError(f"{name}: got {asked}, expected the image's {side}; leave it out, or resize the image")


def read_image(image: ImageInput, height: int | None = None, width: int | None = None) -> FloatArray:
    """Read images for the VAE encoder: float32 (n, 3, height, width) in -1..1; see `preprocess`."""
    return preprocess(image, height, width, factor=1)


def read_transparent(image: "Image") -> FloatArray:
    """Return a PIL image in RGBA as a VAE of images with transparency takes it, float32 (1, 4, H, W) in -1..1."""
    pixels: FloatArray = np.asarray(image).astype(np.float32) / 255.0 * 2 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def fill_batch(rows: FloatArray, images: int, name: str = "image") -> FloatArray:
    """Repeat rows in turns, a, b, a, b, to one for each image.

    Raises:
        InputError: Their number does not divide the number of images.
    """
    count = len(rows)
    if images % count:
        raise InputError(f"{name}: got {count} for {images} images, expected one, or a number that divides theirs")
    return np.tile(rows, (images // count, *[1] * (rows.ndim - 1)))
