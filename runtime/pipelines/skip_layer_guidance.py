"""Skip-layer guidance: away from what a transformer predicts when it leaves out some of its layers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.models.sd3_transformer_2d import SKIP_LAYERS
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance
from diffoundry.runtime.pipelines.step_guidance import StepGuidance, last_rows

__all__ = ["SkipLayerGuidance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipLayerGuidance(ClassifierFreeGuidance, StepGuidance):
    """Classifier-free guidance, and in some steps a further term: e + s (e_c - e_skip).

    e_c is the prediction for the prompt, e_skip that without the layers. diffusers: `skip_guidance_layers` of
    `StableDiffusion3Pipeline`, recommended for Stable Diffusion 3.5 Medium.

    Attributes:
        skipped: 1 for each layer that is skipped and 0 for others, float32 (1, layers).
        skip_scale: s.
        first: Number of the step after which the term begins, times the fraction; see `adds`.
        last: Number of the step before which it ends.
    """

    skipped: FloatArray
    skip_scale: float
    first: float
    last: float

    def adds(self, index: int) -> bool:
        """Return whether the term is added in a step, counted from 0."""
        return self.first < index < self.last

    def predict(
        self, denoiser: Denoiser | Any, sample: FloatArray, timestep: float, feeds: Feeds, index: int
    ) -> FloatArray:
        """See `StepGuidance.predict`."""
        output: FloatArray = denoiser(sample, timestep, feeds)
        return self.add(output, denoiser, sample, timestep, feeds) if self.adds(index) else self.combine(output)

    def add(
        self,
        output: FloatArray,
        denoiser: Denoiser | Any,
        sample: FloatArray,
        timestep: float,
        feeds: Feeds,
    ) -> FloatArray:
        """Make one prediction as `combine`, with the term, for which the denoiser is called for the prompts alone.

        Args:
            output: Of the denoiser, the rows of the prompts last, (2 B, ...).
            denoiser: Called once more.
            sample: Its input, (2 B, ...).
            timestep: Of the step.
            feeds: Its further inputs, (2 B, ...).
        """
        prediction = self.combine(output)
        rows = len(prediction)
        own = dict(last_rows(feeds, rows))
        own[SKIP_LAYERS] = np.repeat(self.skipped, rows, axis=0)
        without: FloatArray = denoiser(sample[-rows:], timestep, own)
        total: FloatArray = prediction + (output[-rows:] - without) * self.skip_scale
        return total
