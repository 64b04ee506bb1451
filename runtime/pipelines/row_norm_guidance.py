"""Guidance that keeps the norm of each row of a prediction, and may end before the last step."""

from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.ending_guidance import EndingGuidance
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance

__all__ = ["RowNormGuidance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowNormGuidance(EndingGuidance, ClassifierFreeGuidance):
    """Classifier-free guidance, e, whose rows are scaled: e |e_c| / |e|. diffusers: `Lumina2Pipeline.__call__`.

    Attributes:
        normalizes: False leaves the norms as they are.
        steps: Of the run.
        until: Fraction of the steps with guidance.
    """

    normalizes: bool
    steps: int
    until: float

    def guides(self, timestep: float, index: int) -> bool:  # noqa: ARG002
        """See `EndingGuidance.guides`."""
        return (index + 1) / self.steps <= self.until

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`; a row is one of the last axis."""
        unconditional, conditional = np.split(output, 2)
        guided: FloatArray = unconditional + np.float32(self.scale) * (conditional - unconditional)
        if not self.normalizes:
            return guided
        own, new = (np.linalg.norm(one, axis=-1, keepdims=True) for one in (conditional, guided))
        scaled: FloatArray = guided * (own / new)
        return scaled
