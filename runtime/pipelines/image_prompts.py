"""Images that a call passes to an image encoder: checked, counted and encoded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.clip_vision import CLIPVisionModel, CLIPVisionModelWithProjection
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.tasks.source_images import image_size

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImagePromptInput", "check_image_prompt", "count_image_prompts", "encode_image_prompts"]

ImagePromptInput: TypeAlias = "Image | Sequence[Image] | FloatArray | None"
"""A PIL image of any size, or several; or the array that the feature extractor makes of them, floats
(B, 3, side, side), as diffusers takes a tensor."""


def check_image_prompt(image: Any) -> None:
    """Refuse anything but PIL images, or an array of prepared pixels.

    Raises:
        InputError: As said.
    """
    if isinstance(given := _pixels(image), np.ndarray):
        if given.dtype.kind != "f" or given.ndim != 4 or not len(given):
            raise InputError(
                f"image: got an array of {given.dtype} {given.shape}, expected PIL images, or floats "
                f"(images, 3, side, side) as CLIP's image processor gives them"
            )
        return
    images: list[Any] = list(image) if isinstance(image, Sequence) else [image]
    if not images:
        raise InputError("image: got an empty list, expected at least one image")
    for one in images:
        if isinstance(one, np.ndarray) or is_tensor(one):
            raise InputError("image: got a list of arrays, expected PIL images, or one array of prepared pixels")
        image_size(one)  # refuses other types and transparent images


def count_image_prompts(image: Any) -> int:
    """Return the number of images."""
    pixels = _pixels(image)
    return len(pixels) if isinstance(pixels, Sequence | np.ndarray) else 1


def encode_image_prompts(encoder: CLIPVisionModelWithProjection | CLIPVisionModel, image: Any) -> FloatArray:
    """Return a row an image: its projected vector (B, D), or the states of its tokens (B, tokens, D)."""
    images = _pixels(image)
    if isinstance(images, np.ndarray):
        return encoder(images.astype(np.float32))
    return encoder(encoder.prepare(list(images) if isinstance(images, Sequence) else [images]))


def _pixels(image: Any) -> Any:
    """Return the image or images; a tensor of torch as an array."""
    return to_array(image) if is_tensor(image) else image
