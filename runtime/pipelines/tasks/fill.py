"""Filling: inpainting by a denoiser that takes every pixel of the mask."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.tasks.inpainting import Inpainting

__all__ = ["Fill"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fill(Inpainting):
    """diffusers: `FluxFillPipeline`. Its further channels are the latents of the kept part, and a channel a pixel.

    Arguments are those of `Inpainting`.
    """

    name: ClassVar[str] = "fill"
    label: ClassVar[str] = "filling"
    named_only: ClassVar[bool] = True
    draws_image: ClassVar[bool] = True

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:
        """See `Task.fits`: the latents of the kept part, and the pixels of a latent."""
        return extra > latent

    def _shrink(self, mask: FloatArray, factor: int) -> FloatArray:
        """Return a mask (n, 1, H, W) with the pixels of a latent as channels. diffusers: `prepare_mask_latents`."""
        rows, _, height, width = mask.shape
        cells = mask.reshape(rows, height // factor, factor, width // factor, factor).transpose(0, 2, 4, 1, 3)
        return cells.reshape(rows, factor**2, height // factor, width // factor)

    def _join(self, mask: FloatArray, kept: FloatArray) -> FloatArray:
        """Return the latents of the kept part, and the mask."""
        return np.concatenate([kept, mask], axis=1)
