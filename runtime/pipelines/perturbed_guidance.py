"""Guidance away from what a transformer predicts when tokens of some layers see themselves alone.

Ahn et al. 2024, https://arxiv.org/abs/2403.17377. diffusers: `PAGMixin`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Unguided
from diffoundry.runtime.pipelines.guidance_rescale import rescale_noise
from diffoundry.runtime.pipelines.step_guidance import StepGuidance, last_rows
from diffoundry.runtime.pipelines.systems.perturbed_attention import PerturbedLayers, scale_at

__all__ = ["Perturbation", "PerturbedGuidance", "PerturbedUnguided"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Perturbation:
    """The further term of a prediction.

    Attributes:
        inputs: The arguments of the call.
        layers: 1 for each layer that is perturbed and 0 for others, float32 (1, layers).
    """

    inputs: PerturbedLayers
    layers: FloatArray

    def term(
        self, conditional: FloatArray, denoiser: Denoiser | Any, sample: FloatArray, timestep: float, feeds: Feeds
    ) -> FloatArray:
        """Return s (e_c - e_p); the denoiser is called once more, for the prompts alone.

        Args:
            conditional: e_c, (B, ...).
            denoiser: Predicts e_p.
            sample: Its input, the rows of the prompts last.
            timestep: Of the step.
            feeds: Its further inputs.
        """
        rows = len(conditional)
        own = {**last_rows(feeds, rows), IDENTITY_LAYERS: np.repeat(self.layers, rows, axis=0)}
        away: FloatArray = conditional - denoiser(sample[-rows:], timestep, own)
        return scale_at(self.inputs, timestep) * away


@dataclass(frozen=True, kw_only=True, slots=True)
class PerturbedGuidance(ClassifierFreeGuidance, StepGuidance):
    """Classifier-free guidance and a further term, e + s (e_c - e_p), whose spread is then restored.

    Attributes:
        perturbation: The term.
    """

    perturbation: Perturbation

    def predict(
        self,
        denoiser: Denoiser | Any,
        sample: FloatArray,
        timestep: float,
        feeds: Feeds,
        index: int,  # noqa: ARG002
    ) -> FloatArray:
        """See `StepGuidance.predict`."""
        output: FloatArray = denoiser(sample, timestep, feeds)
        conditional = output[len(output) // 2 :]
        away = self.perturbation.term(conditional, denoiser, sample, timestep, feeds)
        total: FloatArray = replace(self, rescale=0.0).combine(output) + away
        return rescale_noise(total, conditional, self.rescale) if self.rescale > 0 else total


@dataclass(frozen=True, kw_only=True, slots=True)
class PerturbedUnguided(Unguided, StepGuidance):
    """The prompt alone and a further term, e_c + s (e_c - e_p).

    Attributes:
        perturbation: The term.
    """

    perturbation: Perturbation

    def predict(
        self,
        denoiser: Denoiser | Any,
        sample: FloatArray,
        timestep: float,
        feeds: Feeds,
        index: int,  # noqa: ARG002
    ) -> FloatArray:
        """See `StepGuidance.predict`."""
        output: FloatArray = denoiser(sample, timestep, feeds)
        return output + self.perturbation.term(output, denoiser, sample, timestep, feeds)
