"""Guidance away from what a network predicts when tokens of some layers see themselves alone.

Ahn et al. 2024, https://arxiv.org/abs/2403.17377. diffusers: `PAGMixin`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Guidance, Unguided, choose_guidance
from diffoundry.runtime.pipelines.guidance_rescale import rescale_noise
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.step_guidance import StepGuidance, last_rows
from diffoundry.runtime.pipelines.systems.perturbed_attention import PerturbedLayers, find_layers, layer_names, scale_at

__all__ = ["Perturbation", "PerturbedGuidance", "PerturbedUnguided", "choose_perturbed"]


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


def choose_perturbed(
    inputs: CommonInputs, prompts: PerturbedLayers, denoiser: Denoiser, modules: Sequence[str]
) -> Guidance:
    """Return the guidance of a call. See `Family.choose_guidance`.

    Args:
        inputs: The common arguments.
        prompts: Those of the family.
        denoiser: Its network.
        modules: Names of the self-attentions of the network, in the order of `IDENTITY_LAYERS`.

    Raises:
        InputError: A name of `pag_applied_layers` fits no layer.
    """
    plain = choose_guidance(inputs.guidance_scale, inputs.guidance_rescale, denoiser)
    if not prompts.pag_scale > 0 or not layer_names(prompts):
        return plain
    layers = np.zeros((1, len(modules)), np.float32)
    layers[:, find_layers(prompts, modules)] = 1.0
    perturbation = Perturbation(inputs=prompts, layers=layers)
    if isinstance(plain, ClassifierFreeGuidance):
        return PerturbedGuidance(scale=plain.scale, rescale=plain.rescale, perturbation=perturbation)
    assert isinstance(plain, Unguided)
    return PerturbedUnguided(embedding=plain.embedding, perturbation=perturbation)
