"""Prepares images for CLIP's image encoder as transformers does: resize, crop, rescale, normalize."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.images.pixels import check_pil

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FeatureExtractor"]

FloatArray = NDArray[np.float32]

_CLASSES = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")

_MEAN = 0.48145466, 0.4578275, 0.40821073
_STD = 0.26862954, 0.26130258, 0.27577711
"""transformers: `OPENAI_CLIP_MEAN`, `OPENAI_CLIP_STD`."""

_BICUBIC = 3

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
    """transformers: `CLIPImageProcessorPil`, bit for bit; the name is that of diffusers' component.

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
        known = {"do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "do_rescale"}
        known |= {"rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb", *_IDLE}
        kind = config.get("image_processor_type", config.get("feature_extractor_type", _CLASSES[0]))
        if kind not in _CLASSES:
            raise _refusal("image_processor_type", kind, _CLASSES[0])
        for key, value in config.items():
            if key not in known and value not in (None, False):
                raise _refusal(key, value, "none: it is not supported")
        mean, std = (_channels(config, key, usual) for key, usual in (("image_mean", _MEAN), ("image_std", _STD)))
        square = bool(config.get("default_to_square", False))
        return cls(
            resize=_size(config, "size", square=square) if _is_on(config, "do_resize") else None,
            resample=_number(config, "resample", _BICUBIC, int),
            crop=_crop(config) if _is_on(config, "do_center_crop") else None,
            rescale=_number(config, "rescale_factor", 1 / 255, float) if _is_on(config, "do_rescale") else None,
            normalize=(mean, std) if _is_on(config, "do_normalize") else None,
            converts=_is_on(config, "do_convert_rgb"),
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
    return ConfigError(f"preprocessor_config.json: field {key!r}: got {value!r}, expected {expected}")


def _is_on(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value not in (None, True, False):
        raise _refusal(key, value, "true or false")
    return value is not False


def _number(config: Mapping[str, Any], key: str, usual: Any, kind: type) -> Any:
    value = config.get(key)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise _refusal(key, value, "a number")
    if key == "resample" and value not in range(6):
        raise _refusal(key, value, "one of PIL's filters, 0 to 5")
    return value


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
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _channels(config: Mapping[str, Any], key: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    value = config.get(key)
    if value is None:
        return usual
    values = [value] * 3 if isinstance(value, int | float) else value
    if not (isinstance(values, Sequence) and len(values) == 3 and all(isinstance(one, int | float) for one in values)):
        raise _refusal(key, value, "a number for each of three channels")
    return tuple(values)
