"""Guidance that ends before the last step, and whose norm is limited."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.guidance import Condition, stack
from diffoundry.runtime.pipelines.step_guidance import StepGuidance, last_rows

__all__ = ["TruncatedGuidance", "predict_prompts"]

_TRAINED = np.float32(1000.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncatedGuidance(StepGuidance):
    """Away from the negative prompt, whose rows come first: e = e_c + w (e_c - e_u).

    Ho and Salimans 2022, equation 6, https://arxiv.org/abs/2207.12598. Where the norm of e is above n times that of
    e_c, e is scaled to it. diffusers: `cfg_normalization` and `cfg_truncation` of `ZImagePipeline`.

    Attributes:
        scale: w, above 0.
        largest: n; 0 is off.
        end: Time from 0, noise, to 1 after which the prompts alone are run; None is off.
    """

    copies: ClassVar[int] = 2
    guided: ClassVar[bool] = True

    scale: float
    largest: float = 0.0
    end: float | None = None

    def feeds(self, condition: Condition) -> Feeds:
        """See `Guidance.feeds`."""
        assert condition.unconditional is not None
        return stack([condition.unconditional, condition.conditional])

    def predict(
        self,
        denoiser: Denoiser | Any,
        sample: FloatArray,
        timestep: float,
        feeds: Feeds,
        index: int,  # noqa: ARG002
    ) -> FloatArray:
        """See `StepGuidance.predict`."""
        if not self.ended(timestep):
            return self.combine(denoiser(sample, timestep, feeds))
        return predict_prompts(denoiser, sample, timestep, feeds)

    def ended(self, timestep: float) -> bool:
        """Return whether a step runs the prompts alone."""
        return self.end is not None and bool((_TRAINED - np.float32(timestep)) / _TRAINED > self.end)

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        unconditional, conditional = np.split(output, 2)
        guided: FloatArray = conditional + np.float32(self.scale) * (conditional - unconditional)
        if self.largest > 0:
            axes = tuple(range(1, guided.ndim))
            own, new = (np.sqrt(np.sum(np.square(one), axis=axes, keepdims=True)) for one in (conditional, guided))
            most = own * np.float32(self.largest)
            guided = np.where(new > most, guided * (most / np.maximum(new, np.finfo(np.float32).tiny)), guided)
        return guided


def predict_prompts(denoiser: Denoiser | Any, sample: FloatArray, timestep: float, feeds: Feeds) -> FloatArray:
    """Return the prediction for the prompts, whose rows are the second half; arguments as `StepGuidance.predict`."""
    rows = len(sample) // 2
    prediction: FloatArray = denoiser(sample[rows:], timestep, last_rows(feeds, rows))
    return prediction
