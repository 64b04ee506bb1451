"""Heun's method on the probability flow ODE, in noise levels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.thresholding import clip
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.respaced_sigmas import RespacedSigmaScheduler
from diffoundry.runtime.schedulers.bases.spaced_sigmas import SpacedSigmaOptions
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import BetaOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["HeunDiscreteOptions", "HeunDiscreteScheduler"]


@dataclass(frozen=True, kw_only=True)
class HeunDiscreteOptions(SpacedSigmaOptions):
    """Options of `HeunDiscreteScheduler`, named as in diffusers."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    BETA_SCHEDULES = (*BetaOptions.BETA_SCHEDULES, "exp")


class HeunDiscreteScheduler(RespacedSigmaScheduler[HeunDiscreteOptions]):
    """Two model calls for each step from sigma to sigma'; the last step, to zero, has one.

        d = (x - x0(x, sigma)) / sigma,    x1 = x + (sigma' - sigma) d
        d' = (x1 - x0(x1, sigma')) / sigma'
        x' = x + (sigma' - sigma) (d + d') / 2

    Karras et al. 2022, Algorithm 1, https://arxiv.org/abs/2206.00364.
    diffusers: d = `prev_derivative`. Timesteps after the first occur twice, once for each call. The order of operations
    is diffusers': where sigma' is a small part of sigma, the rounding of x1 decides d'.
    """

    Options = HeunDiscreteOptions
    order = 2
    compatible_names = KARRAS_COMPATIBLES
    custom_schedules = frozenset({"timesteps"})

    def _plan(self, request: RunRequest, train_steps: int) -> Schedule:
        timesteps, levels = self._levels(request, train_steps)
        rounded, sigmas = timesteps.astype(np.float32), levels.astype(np.float32)
        return Schedule(
            np.concatenate([rounded[:1], rounded[1:].repeat(2)]),
            np.concatenate([sigmas[:1], sigmas[1:].repeat(2), np.zeros(1, dtype=np.float32)]),
            request.num_inference_steps or len(rounded),
        )

    def _reset(self) -> None:
        # x and d between the two calls
        self._first: tuple[Sample, Sample] | None = None

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """The first or the second half of a step, in turns.

        Args:
            model_output: float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`, in their order.
            sample: x or x1, same shape.
            generator: ignored, the method is deterministic.

        Raises:
            InputError: the first timestep of a run that is not in the schedule.
        """
        i = self._index(timestep)
        here = self._sigma[i]
        x0 = self._denoised(model_output, sample, here)
        if self.options.clip_sample:
            x0 = clip(x0, self.options.clip_sample_range)

        derivative = (sample - x0) / here
        if self._first is None:
            self._first = (sample, derivative)
            following = sample + derivative * (self._sigma[i + 1] - here)
        else:
            start, before = self._first
            following = start + 0.5 * (before + derivative) * (here - self._sigma[i - 1])
            self._first = None
        self._advance()
        return StepResult(following, x0)
