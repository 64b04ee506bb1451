"""Prepares images for DPT's depth estimators as transformers does: resize, rescale, normalize."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import flag, integer, shorten
from diffoundry.runtime.images.feature_extractor import FeatureExtractor
from diffoundry.runtime.images.pixels import check_pil

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DPTImageProcessor"]

_CLASSES = ("DPTImageProcessor", "DPTImageProcessorFast", "DPTImageProcessorPil", "DPTFeatureExtractor")

_FILE = "preprocessor_config.json"

_DEFAULTS = {"size": {"height": 384, "width": 384}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
"""transformers: `DPTImageProcessorPil`, with `IMAGENET_STANDARD_MEAN` and `IMAGENET_STANDARD_STD`."""

_OWN = ("ensure_multiple_of", "keep_aspect_ratio", "size_divisor")
"""Keys that processors of CLIP do not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DPTImageProcessor:
    """transformers: `DPTImageProcessorPil`, bit for bit.

    Attributes:
        extractor: Resizes, rescales and normalizes; it does not crop.
        multiple: Whole number that the sides of a resized image are multiples of.
        keeps_ratio: True if the sides of an image keep their ratio. The one that changes less decides the scale.
    """

    extractor: FeatureExtractor
    multiple: int = 1
    keeps_ratio: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a preprocessor_config.json, including an old one of a `DPTFeatureExtractor`.

        Raises:
            ConfigError: Another class, or an unsupported option; the message names it.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(f"{_FILE}: got {shorten(config)}, expected an object")
        kind = config.get("image_processor_type", config.get("feature_extractor_type", _CLASSES[0]))
        if kind not in _CLASSES:
            raise ConfigError(
                f"{_FILE}: field 'image_processor_type': got {shorten(kind)}, expected {_CLASSES[0]} for a depth "
                f"estimator"
            )
        given = {key: value for key, value in config.items() if value is not None and key not in _OWN}
        fixed = {"do_center_crop": False, "default_to_square": True, "image_processor_type": "CLIPImageProcessor"}
        given.pop("feature_extractor_type", None)
        return cls(
            extractor=FeatureExtractor.from_config({**_DEFAULTS, **given, **fixed}),
            multiple=integer(config, "ensure_multiple_of", None, subject=_FILE) or 1,
            keeps_ratio=flag(config, "keep_aspect_ratio", default=False, subject=_FILE),
        )

    def __call__(self, images: "Sequence[Image]") -> NDArray[np.float32]:
        """Prepare images.

        Args:
            images: PIL images of one size and of 8 bits a channel.

        Returns:
            float32, (n, 3, height, width).

        Raises:
            InputError: Other values.
        """
        check_pil(images, "image")
        if self.extractor.resize is None:
            return self.extractor(images)
        return replace(self.extractor, resize=self.size_of(images[0]))(images)

    def size_of(self, image: "Image") -> tuple[int, int]:
        """Return height and width of a prepared image; transformers: `get_resize_output_image_size`."""
        size = self.extractor.resize
        if not isinstance(size, tuple):
            return image.height, image.width
        down, across = size[0] / image.height, size[1] / image.width
        if self.keeps_ratio:
            down = across = across if abs(1 - across) < abs(1 - down) else down
        return self._rounded(down * image.height), self._rounded(across * image.width)

    def _rounded(self, side: float) -> int:
        return max(round(side / self.multiple), 1) * self.multiple
