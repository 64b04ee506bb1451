"""Local blend: keeps the base image where the attention of some words is weak.

Hertz et al. 2022, https://arxiv.org/abs/2208.01626, section 3.2. diffusers: `LocalBlend` of the community pipeline
`pipeline_prompt2prompt`.
"""

import numpy as np

from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["LocalBlend"]


class LocalBlend:
    """Blends the latents of edited images with those of the base image."""

    def __init__(self, places: list[list[int]], threshold: float) -> None:
        """Store the words.

        Args:
            places: For each prompt the places of its words among the tokens.
            threshold: Attention from which a pixel is in the region, as a share of the strongest.
        """
        self._places = places
        self._threshold = threshold

    def __call__(self, latents: FloatArray, maps: FloatArray) -> FloatArray:
        """Return the latents, those of edited images outside of their region from the base image.

        Args:
            latents: float32 (prompts * images, C, h, w), the images of one prompt after each other.
            maps: float32 (prompts * images, tokens, h', w'): cross attention, in any scale.
        """
        prompts = len(self._places)
        grouped = maps.reshape(prompts, -1, *maps.shape[1:])
        words = np.stack([one[:, places].sum(1) for one, places in zip(grouped, self._places, strict=True)])
        region = _resized(_spread(words), latents.shape[2:])
        strongest = region.max((-2, -1), keepdims=True)
        inside = region > self._threshold * strongest
        blended = latents.reshape(prompts, -1, *latents.shape[1:])
        mask = (inside[:1] | inside)[:, :, None]
        result: FloatArray = np.where(mask, blended, blended[:1]).reshape(latents.shape)
        return result


def _spread(maps: FloatArray) -> FloatArray:
    """Return the largest value of every neighbourhood of 3 x 3 pixels; torch: `max_pool2d`."""
    height, width = maps.shape[-2:]
    padded = np.pad(maps, [(0, 0)] * (maps.ndim - 2) + [(1, 1), (1, 1)], constant_values=-np.inf)
    shifted = [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
    spread: FloatArray = np.maximum.reduce(shifted)
    return spread


def _resized(maps: FloatArray, size: tuple[int, ...]) -> FloatArray:
    """Resize to the nearest pixel; torch: `interpolate(mode="nearest")`."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, maps.shape[-2:], strict=True))
    resized: FloatArray = maps[..., rows[:, None], columns]
    return resized
