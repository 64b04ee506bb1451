"""Checks and reads the images of a call, so that nothing is resized or ignored silently."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput, preprocess
from diffoundry.runtime.images.read import is_transparent
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.inputs import CommonInputs

__all__ = ["are_latents", "check_own_size", "fill_batch", "image_size", "read_image"]


def are_latents(image: Any, channels: int) -> TypeGuard[FloatArray]:
    """Return whether the image of a call is an array of latents (B, channels, h, w).

    diffusers also takes a tensor with as many channels for latents.
    """
    return isinstance(image, np.ndarray) and image.ndim == 4 and image.shape[1] == channels and image.shape[3] != 3


def image_size(image: ImageInput, name: str = "image") -> tuple[int, int]:
    """Return height and width in pixels of images, all of one size.

    Raises:
        InputError: They differ, or one has transparent pixels, whose alpha would be ignored.
    """
    items: list[Any] = list(image) if isinstance(image, Sequence) else [image]
    sizes = set()
    for item in items:
        if isinstance(item, np.ndarray):
            if not 2 <= item.ndim <= 4:
                raise InputError(f"{name}: got an array of shape {item.shape}, expected (height, width, 3)")
            sizes.add(item.shape[-3:-1] if item.ndim > 2 else item.shape)
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


def fill_batch(rows: FloatArray, images: int, name: str = "image") -> FloatArray:
    """Repeat rows in turns, a, b, a, b, to one for each image.

    Raises:
        InputError: Their number does not divide the number of images.
    """
    count = len(rows)
    if images % count:
        raise InputError(f"{name}: got {count} for {images} images, expected one, or a number that divides theirs")
    return np.tile(rows, (images // count, *[1] * (rows.ndim - 1)))
