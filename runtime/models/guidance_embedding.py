"""The guidance scale as an input of distilled denoisers."""

import numpy as np

from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.schedulers.arithmetic.float32 import exp

__all__ = ["guidance_embedding"]


def guidance_embedding(scale: float, width: int) -> FloatArray:
    """Return the guidance scale w as sines and cosines of 1000 (w - 1), float32 (1, width).

    Luo et al. 2023, section 4.1, https://arxiv.org/abs/2310.04378.
    diffusers: `StableDiffusionPipeline.get_guidance_scale_embedding`.
    """
    half = width // 2
    step = np.log(np.float32(10000.0)) / np.float32(half - 1)
    angles = (
        np.subtract(scale, 1).astype(np.float32) * np.float32(1000.0) * exp(np.arange(half, dtype=np.float32) * -step)
    )
    embedding: FloatArray = np.pad(np.concatenate([np.sin(angles), np.cos(angles)]), (0, width % 2))
    return embedding.reshape(1, -1)
