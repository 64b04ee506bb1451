"""The arguments for image prompts, and the scale of each cross attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.tasks.source_images import image_size

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "EncodedImages",
    "ImagePromptInputs",
    "PromptImages",
    "PromptMasks",
    "PromptScale",
    "layer_scales",
    "to_number",
]

PromptImages: TypeAlias = "Image | Sequence[Image] | Sequence[Sequence[Image]]"
"""For one IP-Adapter an image; for several a list with one for each. Lists in this list are several images for one."""

EncodedImages: TypeAlias = Sequence[FloatArray]

PromptScale: TypeAlias = float | Mapping[str, Any] | Sequence[float | Mapping[str, Any] | Sequence[float]]
"""A number, or the blocks of the denoiser and theirs, for all IP-Adapters; or a list with one of these for each. A list
in this list has a number for each image, with masks."""

PromptMasks: TypeAlias = "MaskInput | Sequence[MaskInput | None]"
"""For one IP-Adapter a mask, or a list with one for each of its images; for several a list with one of these, or None,
for each."""

_HALVES = {"down": "down_blocks", "up": "up_blocks"}
_MIDDLE = "mid"
"""Names of parts of the UNet in diffusers' `set_ip_adapter_scale`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImagePromptInputs:
    """The arguments for IP-Adapters.

    Attributes:
        ip_adapter_image: PIL images of any size.
        ip_adapter_image_embeds: Encoded images instead, a list with an array for each IP-Adapter: float32
            (2, images, E) or (2, images, tokens, E), the negative one first; without guidance (1, ...).
        ip_adapter_scale: Weight of the image prompts; None is 1. In diffusers `set_ip_adapter_scale` sets it, in the
            same forms.
        ip_adapter_masks: Area of each image prompt: PIL images, white there, resized to the size that is generated; or
            floats, an array (images, H, W) or (1, images, H, W), taken as they are. diffusers takes them in
            `cross_attention_kwargs`, prepared by `IPAdapterMaskProcessor`.
        negative_ip_adapter_image: FLUX.1: images for the negative prompt; None is a black one.
        negative_ip_adapter_image_embeds: FLUX.1: encoded images instead. There every array is (1, images, E).
    """

    ip_adapter_image: "PromptImages | None" = None
    ip_adapter_image_embeds: "EncodedImages | None" = None
    ip_adapter_scale: PromptScale | None = None
    ip_adapter_masks: "PromptMasks | None" = None
    negative_ip_adapter_image: "PromptImages | None" = None
    negative_ip_adapter_image_embeds: "EncodedImages | None" = None

    @property
    def given(self) -> bool:
        """True with images, or embeddings of them."""
        found = self.ip_adapter_image is not None or self.ip_adapter_image_embeds is not None
        return found or bool(self.negative)

    @property
    def negative(self) -> list[str]:
        """The arguments that were given for the negative prompt."""
        names = ("negative_ip_adapter_image", "negative_ip_adapter_image_embeds")
        return [name for name in names if getattr(self, name) is not None]

    @property
    def without_image(self) -> list[str]:
        """The arguments that were given and mean nothing without an image."""
        names = [field.name for field in fields(self) if field.name in ("ip_adapter_scale", "ip_adapter_masks")]
        return [name for name in names if getattr(self, name) is not None]

    def images(self, count: int, prefix: str = "") -> list[list[Any]]:
        """Return the images of each IP-Adapter; "negative_" as prefix returns those of the negative prompt.

        Raises:
            InputError: There are not as many as IP-Adapters, or one is no image.
        """
        name = f"{prefix}ip_adapter_image"
        given: Any = getattr(self, name)
        entries = list(given) if isinstance(given, list | tuple) else [given]
        if len(entries) != count:
            hint = "; put several images for one IP-Adapter into a list in this list" if count == 1 else ""
            raise InputError(
                f"{name}: got {len(entries)} for {count} IP-Adapters of this bundle, expected one for each{hint}"
            )
        images = [list(entry) if isinstance(entry, list | tuple) else [entry] for entry in entries]
        for some in images:
            if not some:
                raise InputError(f"{name}: got an empty list, expected at least one image")
            for image in some:
                if isinstance(image, np.ndarray) or is_tensor(image):
                    raise InputError(f"{name}: got an array, expected PIL images; pass encoded images as {name}_embeds")
                image_size(image, name)
        return images

    def embeds(self, count: int, *, guided: bool) -> list[tuple[FloatArray, FloatArray | None]]:
        """Return encoded images of each IP-Adapter, (images, ...), and the negative ones.

        Raises:
            InputError: There are not as many as IP-Adapters, or one is no array of embeddings.
        """
        given: Any = self.ip_adapter_image_embeds
        entries = list(given) if isinstance(given, list | tuple) else [None]
        if len(entries) != count:
            raise InputError(
                f"ip_adapter_image_embeds: got {len(entries)} for {count} IP-Adapters of this bundle, expected a list "
                f"with one for each"
            )
        rows, found = 2 if guided else 1, []
        for entry in entries:
            array: Any = to_array(entry) if is_tensor(entry) else entry
            fits = isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim in (3, 4)
            if not fits or len(array) != rows or not array.size:
                shape = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(entry).__name__
                why = "with guidance the negative one comes first" if guided else "without guidance there is one row"
                raise InputError(
                    f"ip_adapter_image_embeds: got {shape}, expected a list of floats ({rows}, images, width) or "
                    f"({rows}, images, tokens, width): {why}"
                )
            whole = array.astype(np.float32)
            found.append((whole[-1], whole[0] if guided else None))
        return found

    def scales(self, count: int) -> list[Any]:
        """Return the scale of each IP-Adapter: a number, a list with one for each image, or those of blocks.

        Raises:
            InputError: There are not as many as IP-Adapters.
        """
        given = self.ip_adapter_scale
        if given is None:
            return [1.0] * count
        if not isinstance(given, list | tuple):
            return [given] * count
        if len(given) != count:
            raise InputError(
                f"ip_adapter_scale: got {len(given)} for {count} IP-Adapters of this bundle, expected one for each"
            )
        return list(given)

    def masks(self, counts: Sequence[int]) -> list[Any]:
        """Return the masks of each IP-Adapter, or None.

        Args:
            counts: Images of each IP-Adapter.

        Raises:
            InputError: There are not as many as IP-Adapters.
        """
        given: Any = self.ip_adapter_masks
        if given is None:
            return [None] * len(counts)
        if len(counts) == 1 and not (isinstance(given, list | tuple) and len(given) == 1):
            return [given]
        entries = list(given) if isinstance(given, list | tuple) else [given]
        if len(entries) != len(counts):
            raise InputError(
                f"ip_adapter_masks: got {len(entries)} for {len(counts)} IP-Adapters of this bundle, expected one, or "
                f"None, for each"
            )
        return entries


def layer_scales(scale: Any, layers: Sequence[str], prompts: int) -> FloatArray:
    """Return the scales of one IP-Adapter: float32 (layers, prompts).

    diffusers: `set_ip_adapter_scale`, which sets blocks that are not named to 0.

    Args:
        scale: As `ImagePromptInputs.scales` gives it.
        layers: Names of the denoiser's cross attentions.
        prompts: Image prompts that are attended to one by one.

    Raises:
        InputError: It is something else, or names a block that the denoiser does not have.
    """
    if isinstance(scale, np.ndarray):
        return scale
    if isinstance(scale, Mapping):
        numbers = _scales_of_blocks(scale, layers)
        return np.repeat(np.asarray(numbers, np.float32)[:, None], prompts, axis=1)
    if isinstance(scale, list | tuple):
        if len(scale) != prompts:
            raise InputError(
                f"ip_adapter_scale: got a list of {len(scale)} for {prompts} image prompts with a mask of their own, "
                f"expected a number, or one for each"
            )
        return np.tile(np.asarray([to_number(one) for one in scale], np.float32), (len(layers), 1))
    return np.full((len(layers), prompts), to_number(scale), np.float32)


def _scales_of_blocks(scale: Mapping[str, Any], layers: Sequence[str]) -> list[float]:
    """Return the scale of each layer.

    diffusers: `_maybe_expand_lora_scales_for_one_adapter`, with 0 for what is not named.
    """
    unknown = [key for key in scale if key not in (*_HALVES, _MIDDLE)]
    if unknown:
        raise InputError(f"ip_adapter_scale: got the part {unknown[0]!r}, expected down, mid or up")
    for half, prefix in _HALVES.items():
        blocks = scale.get(half)
        known = {layer.split(".")[1] for layer in layers if layer.startswith(f"{prefix}.")}
        for key in blocks if isinstance(blocks, Mapping) else ():
            if not str(key).startswith("block_") or str(key).removeprefix("block_") not in known:
                have = ", ".join(f"block_{number}" for number in sorted(known)) or "none"
                raise InputError(
                    f"ip_adapter_scale: got {key!r} in {half!r}, expected one of {have}: those with cross attention"
                )
    return [_scale_of_layer(scale, layer, layers) for layer in layers]


def _scale_of_layer(scale: Mapping[str, Any], layer: str, layers: Sequence[str]) -> float:
    part, block, *_ = layer.split(".")
    half = next((name for name, prefix in _HALVES.items() if prefix == part), _MIDDLE)
    value = scale.get(half, 0.0)
    if isinstance(value, Mapping):
        value = value.get(f"block_{block}", 0.0)
    if not isinstance(value, list | tuple):
        return to_number(value)
    same = part if half == _MIDDLE else f"{part}.{block}"
    count = len({_attention(name) for name in layers if name.startswith(f"{same}.attentions.")})
    if len(value) not in (1, count):
        raise InputError(
            f"ip_adapter_scale: got a list of {len(value)} for {same}, expected a number, or {count}: one for each of "
            f"its attentions"
        )
    return to_number(value[0] if len(value) == 1 else value[_attention(layer)])


def _attention(layer: str) -> int:
    """Return the number of an attention within its block: 1 of "up_blocks.0.attentions.1.transformer_blocks.0"."""
    return int(layer.partition(".attentions.")[2].partition(".")[0])


def to_number(value: Any) -> float:
    """Return a scale as a number.

    Raises:
        InputError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise InputError(f"ip_adapter_scale: got {value!r}, expected a number")
    return float(value)
