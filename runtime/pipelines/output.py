"""The result of a call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from diffoundry.runtime.models.protocols import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImagesT", "PipelineOutput"]

ImagesT = TypeVar("ImagesT", bound="list[Image] | FloatArray", covariant=True)
"""Type of the images: it follows from `output_type`."""


@dataclass(frozen=True, slots=True, repr=False)
class PipelineOutput(Generic[ImagesT]):
    """The result of a call. As in diffusers `result[0]` and `result["images"]` are the images, too.

    Attributes:
        images: PIL images; a float32 array (B, H, W, 3) in 0..1 for "np"; the latents (B, ...) for "latent".
        seed: The seed used, or None when the caller passed generators or latents.
        truncated: For each prompt the part that did not fit into the text encoder, "" where all of it did.
        nsfw_content_detected: For each image whether the safety checker flagged it, so that it is black; None without
            a safety checker.
        heat_maps: Each of `heat_map_words` to its mean attention over the steps, float32 (B, h, w) of the UNet's own
            resolution; None without. It is a share: over all tokens it adds up to 1, unless an edit reweights words.
        watermark_detected: For each image whether DeepFloyd IF's safety checker found a watermark, so that it is black;
            None without that checker.
    """

    images: ImagesT
    seed: int | tuple[int, ...] | None
    truncated: tuple[str, ...]
    nsfw_content_detected: list[bool] | None = None
    heat_maps: Mapping[str, FloatArray] | None = None
    watermark_detected: list[bool] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the images, and the flags of the safety checker if there is one, as diffusers' outputs do."""
        flags = (self.nsfw_content_detected, self.watermark_detected)
        return (self.images, *(found for found in flags if found is not None))

    def __getitem__(self, key: int | slice | str) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        names = [field.name for field in fields(self)]
        if key not in names:
            raise KeyError(f"{key!r}: the result has {', '.join(names)}")
        return getattr(self, key)

    def __repr__(self) -> str:
        images = self.images
        if isinstance(images, np.ndarray):
            shown = f"{images.dtype} {images.shape}"
        else:
            assert isinstance(images, Sequence)
            shown = f"[{', '.join(f'{image.mode} {image.width}x{image.height}' for image in images)}]"
        cut = f", truncated={self.truncated}" if any(self.truncated) else ""
        flags = "" if self.nsfw_content_detected is None else f", nsfw_content_detected={self.nsfw_content_detected}"
        marks = "" if self.watermark_detected is None else f", watermark_detected={self.watermark_detected}"
        return f"PipelineOutput(images={shown}, seed={self.seed}{cut}{flags}{marks})"
