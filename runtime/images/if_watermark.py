"""The watermark of DeepFloyd IF, pasted into the lower right corner of an image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IFWatermarker"]

_SIZE, _MARGIN = 62, 14
"""Side of the watermark, and its distance from both edges, in an image of `_PIXELS`."""

_PIXELS = 1024**2


class IFWatermarker:
    """Draws a watermark. diffusers: `IFWatermarker`.

    Attributes:
        watermark_image: uint8 (H, W, 4), RGBA.
    """

    def __init__(self, watermark_image: npt.NDArray[np.uint8]) -> None:
        """Store the watermark."""
        self.watermark_image = watermark_image

    def apply_watermark(self, images: "Sequence[Image]", sample_size: int | None = None) -> "list[Image]":
        """Return images with the watermark; none is drawn where it would be smaller than a pixel.

        Args:
            images: RGB, all of one size.
            sample_size: Side that the network was trained for; smaller images get the watermark of that size.
        """
        from PIL.Image import Resampling, fromarray

        width, height = images[0].size
        scale = min(height / (sample_size or height), width / (sample_size or height))
        right, bottom = (int(width / scale), int(height / scale)) if scale < 1 else (width, height)
        ratio = (right * bottom / _PIXELS) ** 0.5
        size = int(ratio * _SIZE)
        marked = [image.copy() for image in images]
        if not size:  # diffusers fails
            return marked
        x, y = right - int(_MARGIN * ratio), bottom - int(_MARGIN * ratio)
        mark = fromarray(self.watermark_image).resize((size, size), Resampling.BICUBIC, reducing_gap=None)
        for image in marked:
            image.paste(mark, box=(x - size, y - size, x, y), mask=mark.split()[-1])
        return marked
