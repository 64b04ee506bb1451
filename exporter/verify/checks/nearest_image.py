"""Checks what an image shows by nearest neighbour in a gallery of labelled images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffoundry.exporter.verify.reference.pipeline_trace import Trace
from diffoundry.exporter.verify.run_result import is_image
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.images.read import read_image_file

__all__ = ["CAPTIONS", "THUMBNAILS", "Gallery", "gallery_of_images", "gallery_of_prompts", "open_gallery", "shrink"]

FloatArray = NDArray[np.float32]

THUMBNAILS, CAPTIONS = "thumbnails.png", "captions.json"
"""Files of a checkpoint's gallery: a sheet of square thumbnails, row by row, and a list of objects with a "label"."""

SIZE = 16
"""Width and height of a thumbnail: small enough that noise of a pixel or two does not change the label."""

_APART = 1e-3
"""Mean squared error of thumbnails, 30 dB: images nearer than this show the same thing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gallery:
    """Labelled images.

    Attributes:
        source: Origin of the images, in words.
        labels: N names; several images may have the same one.
        thumbnails: float32 (N, 16, 16, 3) in 0..1.
    """

    source: str
    labels: tuple[str, ...]
    thumbnails: FloatArray

    @classmethod
    def of_images(cls, source: str, labels: Sequence[str], images: Sequence[FloatArray]) -> "Gallery":
        """Build a gallery from images of any size, float32 (height, width, 3) in 0..1."""
        return cls(source=source, labels=tuple(labels), thumbnails=np.stack([shrink(one) for one in images]))

    def name(self, image: FloatArray) -> str | None:
        """Label an image by its nearest neighbour, by mean squared error of the thumbnails; None for one with NaN.

        Args:
            image: Floats (height, width, 3) in 0..1.
        """
        if not np.isfinite(image).all():
            return None
        errors = np.square(self.thumbnails - shrink(image)).mean(axis=(1, 2, 3), dtype=np.float64)
        return self.labels[int(errors.argmin())]


def open_gallery(root: Path) -> Gallery | None:
    """Open a checkpoint's gallery, or return None when it has none.

    Raises:
        CheckpointError: Its two files do not match.
    """
    sheet, captions = root / THUMBNAILS, root / CAPTIONS
    if not (sheet.is_file() and captions.is_file()):
        return None
    try:
        labels = tuple(str(entry["label"]) for entry in json.loads(captions.read_text(encoding="utf-8-sig")))
        image = read_image_file(sheet, "gallery")
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {root}: its {THUMBNAILS} and {CAPTIONS} cannot be read ({error}); "
            f"restore them, or remove {THUMBNAILS}"
        ) from error
    height, width = pixels.shape[0] // SIZE, pixels.shape[1] // SIZE
    tiles = pixels[: height * SIZE, : width * SIZE].reshape(height, SIZE, width, SIZE, 3).swapaxes(1, 2)
    tiles = tiles.reshape(-1, SIZE, SIZE, 3)
    if not 0 < len(labels) <= len(tiles):
        raise CheckpointError(
            f"checkpoint {root}: got {len(labels)} labels in {CAPTIONS} and {len(tiles)} thumbnails of {SIZE} x {SIZE} "
            f"pixels in {THUMBNAILS}, expected a thumbnail for each label; restore them, or remove {THUMBNAILS}"
        )
    source = f"{len(labels)} labelled images of the checkpoint"
    return Gallery(source=source, labels=labels, thumbnails=tiles[: len(labels)])


def gallery_of_prompts(traces: Sequence[Trace]) -> Gallery | None:
    """Build a gallery of diffusers' own images, for a checkpoint without one; see `gallery_of_images`.

    None also for the embeddings of a prior.
    """
    if not all(is_image(trace.result) for trace in traces):
        return None
    return gallery_of_images("diffusers' images", [(trace.prompt, trace.result) for trace in traces])


def gallery_of_images(source: str, images: Sequence[tuple[str, FloatArray]]) -> Gallery | None:
    """Build a gallery of images labelled by their prompts.

    None for a single prompt, and for prompts whose images look alike, as those of random weights: the nearest of them
    would mean nothing.

    Args:
        source: Origin of the images, in words.
        images: Pairs of a prompt and its image, float32 (height, width, 3) in 0..1.
    """
    labels = [label for label, _ in images]
    named = f"{source} of {len(set(labels))} prompts"
    gallery = Gallery.of_images(named, labels, [image for _, image in images])
    pairs = [(i, k) for i, one in enumerate(labels) for k in range(i) if one != labels[k]]
    tiles = gallery.thumbnails
    apart = all(float(np.square(tiles[i] - tiles[k]).mean()) > _APART for i, k in pairs)
    return gallery if pairs and apart else None


def shrink(image: NDArray[np.floating[Any]]) -> FloatArray:
    """Average an image (height, width, 3) down, or enlarge it, to float32 (16, 16, 3)."""
    planes = [Image.fromarray(np.ascontiguousarray(image[..., i], dtype=np.float32)) for i in range(3)]
    small = [np.asarray(plane.resize((SIZE, SIZE), Image.Resampling.BOX)) for plane in planes]
    return np.stack(small, axis=-1)
