"""Classifier-free guidance that keeps the length of every predicted token."""

from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.models.flux_transformer_2d import pack_latents, unpack_latents
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance

__all__ = ["NormKeepingGuidance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NormKeepingGuidance(ClassifierFreeGuidance):
    """Away from the negative prompt, by e = e_u + s (e_c - e_u) and e' = e |e_c| / |e| for each token of 2 x 2 latents.

    diffusers: `QwenImagePipeline.__call__`.
    """

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        unconditional, conditional = (pack_latents(half) for half in np.split(output, 2))
        guided = unconditional + np.float32(self.scale) * (conditional - unconditional)
        before, after = (np.linalg.norm(one, axis=-1, keepdims=True) for one in (conditional, guided))
        kept: FloatArray = guided * (before / after)
        return unpack_latents(kept)
