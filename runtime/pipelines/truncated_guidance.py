"""Guidance that ends before the last step, and whose norm is limited."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.ending_guidance import EndingGuidance
from diffoundry.runtime.pipelines.guidance import Condition, stack

__all__ = ["TruncatedGuidance"]

_TRAINED = np.float32(1000.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncatedGuidance(EndingGuidance):
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

    def guides(self, timestep: float, index: int) -> bool:  # noqa: ARG002
        """See `EndingGuidance.guides`."""
        return self.end is None or not bool((_TRAINED - np.float32(timestep)) / _TRAINED > self.end)

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
