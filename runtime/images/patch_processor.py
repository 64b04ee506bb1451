"""Prepares images for Qwen's image encoder as transformers does: whole tokens, a limited area, normalized."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import integer, number, numbers

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PatchProcessor"]

_FILE = "preprocessor_config.json"
_MEAN = 0.48145466, 0.4578275, 0.40821073
_STD = 0.26862954, 0.26130258, 0.27577711
"""transformers: `OPENAI_CLIP_MEAN`, `OPENAI_CLIP_STD`."""

_LARGEST_RATIO = 200
_LARGEST_AREA = 2**28


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchProcessor:
    """transformers: `Qwen2VLImageProcessorPil`.

    Attributes:
        least: Fewest pixels of a prepared image.
        most: Most pixels.
        rescale: Factor of the 8-bit values.
        mean: Of the channels.
        deviation: Of the channels.
    """

    least: int = 56 * 56
    most: int = 28 * 28 * 1280
    rescale: float = 1 / 255
    mean: tuple[float, ...] = _MEAN
    deviation: tuple[float, ...] = _STD

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a preprocessor_config.json.

        Raises:
            ConfigError: A value has another type, or is out of range.
        """
        size = config.get("size")
        own, sides = cls(), size if isinstance(size, dict) else {}
        areas = {"shortest_edge": config.get("min_pixels"), "longest_edge": config.get("max_pixels")}
        known = {**sides, **{name: value for name, value in areas.items() if value is not None}}
        return cls(
            least=integer(known, "shortest_edge", own.least, subject=_FILE, maximum=_LARGEST_AREA),
            most=integer(known, "longest_edge", own.most, subject=_FILE, maximum=_LARGEST_AREA),
            rescale=number(config, "rescale_factor", own.rescale, subject=_FILE, minimum=1e-9, maximum=1.0),
            mean=numbers(config, "image_mean", 3, subject=_FILE) or own.mean,
            deviation=numbers(config, "image_std", 3, subject=_FILE, zero=False) or own.deviation,
        )

    def __call__(self, image: "Image", multiple: int) -> NDArray[np.float32]:
        """Return pixels float32 (3, H, W) of an image, whose sides are multiples of `multiple`."""
        from PIL.Image import Resampling

        height, width = self.size(image.height, image.width, multiple)
        image = image.convert("RGB").resize((width, height), Resampling.BICUBIC)
        values = np.asarray(image, np.float32).transpose(2, 0, 1) * np.float32(self.rescale)
        mean, deviation = (np.asarray(one, np.float32)[:, None, None] for one in (self.mean, self.deviation))
        return (values - mean) / deviation

    def size(self, height: int, width: int, multiple: int) -> tuple[int, int]:
        """Return height and width of a prepared image. transformers: `smart_resize`.

        Raises:
            InputError: A side is more than 200 times the other.
        """
        if max(height, width) > _LARGEST_RATIO * min(height, width):
            raise InputError(
                f"image: got {width} x {height} pixels, expected a long side of at most {_LARGEST_RATIO} short ones; "
                f"crop it"
            )
        sides = [round(side / multiple) * multiple for side in (height, width)]
        if sides[0] * sides[1] > self.most:
            factor = math.sqrt(height * width / self.most)
            sides = [max(multiple, math.floor(side / factor / multiple) * multiple) for side in (height, width)]
        elif sides[0] * sides[1] < self.least:
            factor = math.sqrt(self.least / (height * width))
            sides = [math.ceil(side * factor / multiple) * multiple for side in (height, width)]
        return sides[0], sides[1]
