"""The array that a verification compares of a finished run: its first image, or the embeddings of a prior."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_image", "result_of"]

FloatArray = NDArray[np.float32]

_TRANSPARENT = 4
"""Channels."""


def result_of(output: Any) -> FloatArray:
    """Return what a run of diffusers' pipeline, or of ours, made.

    Returns:
        The first image, float32 (height, width, 3) in 0..1; one in layers (layers * height, width, 4). Of a prior both
        embeddings of the first row, (2, D), its small latents in one row, (1, D), or the tokens of a prompt, (tokens,
        D).
    """
    if hasattr(output, "image_embeddings"):
        return np.asarray(output.image_embeddings[0], np.float32).reshape(1, -1)
    if hasattr(output, "image_embeds"):
        return np.stack(
            [np.asarray(rows[0], np.float32) for rows in (output.image_embeds, output.negative_image_embeds)]
        )
    if hasattr(output, "pooled_prompt_embeds"):
        return np.asarray(output.prompt_embeds[0], np.float32)
    images = np.asarray(output.images, np.float32)
    if images.shape[-1] == _TRANSPARENT:  # diffusers has a list of layers for each image
        return images.reshape(-1, *images.shape[-2:])
    return np.asarray(output.images[0], np.float32)


def is_image(result: FloatArray) -> bool:
    """Return whether a result is an image; embeddings are none."""
    return result.ndim == 3
