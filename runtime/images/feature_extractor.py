"""Prepares images for CLIP's and SigLIP's image encoders as transformers does: resize, crop, rescale, normalize."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.formats.config_values import flag, integer, number, numbers, shorten
from diffoundry.runtime.images.pixels import check_pil

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FeatureExtractor"]

FloatArray = NDArray[np.float32]

_CLASSES = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")

_MEAN = 0.48145466, 0.4578275, 0.40821073
_STD = 0.26862954, 0.26130258, 0.27577711
"""transformers: `OPENAI_CLIP_MEAN`, `OPENAI_CLIP_STD`."""

_SIGLIP_CLASSES = ("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil")

_HALF = 0.5, 0.5, 0.5
"""SigLIP's mean and deviation. transformers: `IMAGENET_STANDARD_MEAN`, `IMAGENET_STANDARD_STD`."""

_NORMAL = ("mean", "std")

_BICUBIC = 3

_FILE = "preprocessor_config.json"

_LARGEST_SIDE = 4096
"""Pixels of a prepared image; CLIP's networks take 224 to 448."""

_LONGEST_SIDE = 2**16
"""Pixels of the longer side of an image whose shorter one is resized."""

_IDLE = frozenset(
    (
        "_processor_class", "processor_class", "feature_extractor_type", "image_processor_type", "input_data_format",
        "data_format", "device", "disable_grouping", "return_tensors", "image_seq_length", "use_square_size",
    )
)  # fmt: skip
"""Keys of a preprocessor_config.json that change nothing here."""

Size = int | tuple[int, int]
"""The shorter side, or (height, width)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureExtractor:
    """transformers: `CLIPImageProcessorPil` and `SiglipImageProcessorPil`, bit for bit, named as diffusers' component.

    Attributes:
        resize: Size that images are resized to, or None to keep their size.
        resample: Number of the PIL filter.
        crop: (height, width) of the middle that is kept, or None to keep all. Smaller images get a black margin.
        rescale: Factor of the 8-bit values, or None.
        normalize: Mean and deviation of the channels, or None.
        converts: True if images of other modes are converted to RGB.
    """

    resize: Size | None = 224
    resample: int = _BICUBIC
    crop: tuple[int, int] | None = (224, 224)
    rescale: float | None = 1 / 255
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = (_MEAN, _STD)
    converts: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a preprocessor_config.json, including an old one of a `CLIPFeatureExtractor`.

        Raises:
            ConfigError: Another class, or an unsupported option; the message names it.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(f"{_FILE}: got {shorten(config)}, expected an object")
        known = {"do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "do_rescale"}
        known |= {"rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb", *_IDLE}
        kind = config.get("image_processor_type", config.get("feature_extractor_type", _CLASSES[0]))
        if kind not in (*_CLASSES, *_SIGLIP_CLASSES):
            raise _refusal("image_processor_type", kind, _CLASSES[0])
        siglip = kind in _SIGLIP_CLASSES
        for key, value in config.items():
            if key not in known and value not in (None, False):
                raise _refusal(key, value, "none: it is not supported")
        usual = (_HALF, _HALF) if siglip else (_MEAN, _STD)
        mean, std = (_channels(config, f"image_{key}", usual[key == "std"], zero=key == "mean") for key in _NORMAL)
        square = flag(config, "default_to_square", default=siglip, subject=_FILE)
        resample = integer(config, "resample", None, subject=_FILE, minimum=0, maximum=5)  # PIL's filters
        factor = number(config, "rescale_factor", None, subject=_FILE, minimum=1e-9, maximum=1e9)
        return cls(
            resize=_size(config, "size", square=square) if _is_on(config, "do_resize") else None,
            resample=_BICUBIC if resample is None else resample,
            crop=_crop(config) if flag(config, "do_center_crop", default=not siglip, subject=_FILE) else None,
            rescale=(1 / 255 if factor is None else factor) if _is_on(config, "do_rescale") else None,
            normalize=(mean, std) if _is_on(config, "do_normalize") else None,
            converts=siglip or _is_on(config, "do_convert_rgb"),  # diffusers asks SigLIP's for it in the call
        )

    def __call__(self, images: "Sequence[Image]") -> FloatArray:
        """Prepare images.

        Args:
            images: PIL images of 8 bits a channel.

        Returns:
            float32, (n, 3, height, width).

        Raises:
            InputError: Other values, or the prepared images differ in size.
        """
        check_pil(images, "image")
        prepared = [self._prepare(image) for image in images]
        if len({one.shape for one in prepared}) != 1:
            sizes = ", ".join(f"{image.width} x {image.height}" for image in images)
            raise InputError(
                f"image: got images of {sizes}, expected one size: this checkpoint does not crop; resize them"
            )
        return np.stack(prepared)

    def _prepare(self, image: "Image") -> FloatArray:
        if self.converts:
            image = image.convert("RGB")
        elif image.mode != "RGB":
            raise InputError(f"image: got the PIL mode {image.mode!r}, expected 'RGB' for this checkpoint; convert it")
        if self.resize is not None:
            height, width = _scaled(image, self.resize)
            image = image.resize((width, height), resample=self.resample)
        pixels: NDArray[Any] = np.asarray(image)
        if self.crop is not None:
            pixels = _cut(pixels, self.crop)
        if self.rescale is not None:
            pixels = (pixels.astype(np.float64) * self.rescale).astype(np.float32)
        pixels = pixels.astype(np.float32)
        if self.normalize is not None:
            mean, std = (np.asarray(values, np.float32) for values in self.normalize)
            pixels = (pixels - mean) / std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)


def _scaled(image: "Image", size: Size) -> tuple[int, int]:
    """Height and width after resizing; transformers: `get_resize_output_image_size`."""
    if not isinstance(size, int):
        return size
    short, long = sorted((image.width, image.height))
    longer = int(size * long / short)
    if longer > _LONGEST_SIDE:
        raise InputError(f"image: got {image.width} x {image.height} pixels, expected sides more alike; crop it")
    return (longer, size) if image.width <= image.height else (size, longer)


def _cut(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The middle of an image (H, W, C), black around it where it is smaller; transformers: `center_crop`."""
    for axis, wanted in enumerate(size):
        start = (pixels.shape[axis] - wanted) // 2
        if start < 0:
            margin = [(0, 0)] * pixels.ndim
            margin[axis] = -start, wanted - pixels.shape[axis] + start
            pixels = np.pad(pixels, margin)
        else:
            pixels = pixels.take(range(start, start + wanted), axis=axis)
    return pixels


def _refusal(key: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{_FILE}: field {key!r}: got {shorten(value)}, expected {expected}")


def _is_on(config: Mapping[str, Any], key: str) -> bool:
    return flag(config, key, default=True, subject=_FILE)


def _size(config: Mapping[str, Any], key: str, *, square: bool) -> Size:
    value: Any = config.get(key)
    if value is None:
        return 224
    if isinstance(value, Mapping) and value.keys() == {"shortest_edge"}:
        value, square = value["shortest_edge"], False
    if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
        height, width = value["height"], value["width"]
        if _is_side(height) and _is_side(width):
            return height, width
    if not _is_side(value):
        raise _refusal(key, value, 'a number of pixels, {"shortest_edge": ...} or {"height": ..., "width": ...}')
    return (value, value) if square else int(value)


def _crop(config: Mapping[str, Any]) -> tuple[int, int]:
    value = config.get("crop_size")
    if isinstance(value, Mapping) and "shortest_edge" in value:
        raise _refusal("crop_size", value, 'a number of pixels or {"height": ..., "width": ...}')
    size = _size(config, "crop_size", square=True)
    return (size, size) if isinstance(size, int) else size


def _is_side(value: object) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_SIDE


def _channels(config: Mapping[str, Any], key: str, usual: tuple[float, ...], *, zero: bool) -> tuple[float, ...]:
    value = config.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        config = {key: [value] * 3}
    found = numbers(config, key, 3, subject=_FILE, zero=zero)
    return usual if found is None else found
