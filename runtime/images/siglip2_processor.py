"""Prepares images for SigLIP 2's image encoder as transformers does: a limited number of patches in their ratio."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.formats.config_values import flag, integer, number, numbers, refuse

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Siglip2Processor"]

_FILE = "preprocessor_config.json"
_HALF = 0.5, 0.5, 0.5
_BILINEAR = 2
_CLOSE, _LARGEST_SCALE = 1e-5, 100.0
"""Of the search for a scale. transformers: `get_image_size_for_max_num_patches`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Siglip2Processor:
    """transformers: `Siglip2ImageProcessorPil`.

    Attributes:
        patch: Pixels to a side of a patch.
        most: Most patches.
        resample: Number of the PIL filter.
        rescale: Factor of the 8-bit values.
        mean: Of the channels.
        deviation: Of the channels.
    """

    patch: int = 16
    most: int = 256
    resample: int = _BILINEAR
    rescale: float = 1 / 255
    mean: tuple[float, ...] = _HALF
    deviation: tuple[float, ...] = _HALF

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a preprocessor_config.json.

        Raises:
            ConfigError: A value has another type, or is out of range.
        """
        for name in ("do_resize", "do_rescale", "do_normalize"):
            if not flag(config, name, default=True, subject=_FILE):
                raise refuse(_FILE, name, False, "true: the image encoder of Z-Image Omni has no other images")
        own, resample = cls(), integer(config, "resample", None, subject=_FILE, minimum=0, maximum=5)
        return cls(
            patch=integer(config, "patch_size", own.patch, subject=_FILE, maximum=1024),
            most=integer(config, "max_num_patches", own.most, subject=_FILE, maximum=2**16),
            resample=_BILINEAR if resample is None else resample,
            rescale=number(config, "rescale_factor", own.rescale, subject=_FILE, minimum=1e-9, maximum=1.0),
            mean=numbers(config, "image_mean", 3, subject=_FILE) or own.mean,
            deviation=numbers(config, "image_std", 3, subject=_FILE, zero=False) or own.deviation,
        )

    def __call__(self, image: "Image") -> tuple[NDArray[np.float32], int, int]:
        """Return patches float32 (rows * columns, 3 * patch * patch) of an image, rows, and columns."""
        rows, columns = self.grid(image.height, image.width)
        size = columns * self.patch, rows * self.patch
        pixels = np.asarray(image.convert("RGB").resize(size, resample=self.resample))
        values = (pixels.astype(np.float64) * self.rescale).astype(np.float32)
        mean, deviation = (np.asarray(one, np.float32) for one in (self.mean, self.deviation))
        cut = ((values - mean) / deviation).reshape(rows, self.patch, columns, self.patch, 3)
        return cut.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1).astype(np.float32), rows, columns

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches of an image. transformers: `get_image_size_for_max_num_patches`."""
        low, high = _CLOSE / 10, _LARGEST_SCALE
        while high - low >= _CLOSE:
            scale = (low + high) / 2
            rows, columns = self._patches(scale * height), self._patches(scale * width)
            low, high = (scale, high) if rows * columns <= self.most else (low, scale)
        return self._patches(low * height), self._patches(low * width)

    def _patches(self, side: float) -> int:
        return max(math.ceil(side / self.patch), 1)
