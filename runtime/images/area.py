"""Limits the pixels of images that are conditions, and crops them to whole tokens."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_AREA", "crop_middle", "limit_area"]

MAX_AREA = 1024 * 1024
"""Most pixels of an image that FLUX.2 and Z-Image Omni see."""


def limit_area(image: "Image", area: int = MAX_AREA) -> "Image":
    """Return a PIL image as it is, or one of `area` pixels, resized with Lanczos, where it has more than `MAX_AREA`.

    diffusers: `Flux2ImageProcessor._resize_to_target_area`.
    """
    from PIL.Image import Resampling

    if image.width * image.height <= MAX_AREA:
        return image
    scale = math.sqrt(area / (image.width * image.height))
    return image.resize((int(image.width * scale), int(image.height * scale)), Resampling.LANCZOS)


def crop_middle(image: "Image", height: int, width: int) -> "Image":
    """Return the middle of a PIL image. diffusers: `Flux2ImageProcessor._resize_and_crop`."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
