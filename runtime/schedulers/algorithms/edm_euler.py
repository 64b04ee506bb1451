"""Euler's method for EDM models."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.edm import EDMOptions, EDMScheduler, c_noise
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["EDMEulerOptions", "EDMEulerScheduler"]


@dataclass(frozen=True, kw_only=True)
class EDMEulerOptions(EDMOptions):
    """Options of `EDMEulerScheduler`, named as in diffusers."""


class EDMEulerScheduler(EDMScheduler[EDMEulerOptions]):
    """One Euler step from sigma to the next lower sigma', with optional churn.

        x^ = x + sqrt(s^2 - sigma^2) S_noise z,    s = (1 + gamma) sigma
        x' = x0 + (sigma' / s) (x^ - x0)

    with x0 as in `edm.py`. The argument `sigmas` of `set_timesteps` is, as in diffusers, not noise levels but their
    places in the schedule, from 0 at sigma_max to 1 at sigma_min.

    Karras et al. 2022, equation 5 and Algorithm 2 without its second-order correction,
    https://arxiv.org/abs/2206.00364. diffusers: s = `sigma_hat`, x0 = `pred_original_sample`.
    """

    Options = EDMEulerOptions
    custom_schedules = frozenset({"sigmas"})
    combines_schedules = True

    def _training_schedule(self) -> Schedule:
        trained = self.options.num_train_timesteps
        return self._planned(np.arange(trained + 1) / trained, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        if request.sigmas is not None:
            ramp = np.asarray(request.sigmas, dtype=np.float64)
            return self._planned(ramp, request.num_inference_steps or len(ramp))
        return self._planned(np.linspace(0, 1, request.steps), request.steps)

    def _planned(self, ramp: NDArray[np.float64], steps: int | None) -> Schedule:
        levels = self._levels(ramp)
        last = levels[-1] if self.options.final_sigmas_type == "sigma_min" else np.float32(0)
        return Schedule(c_noise(levels), np.append(levels, last), steps)

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
        generator: Generator = None,
        pred_original_sample: Sample | None = None,
    ) -> StepResult:
        """Go from sigma to the next lower sigma.

        Args:
            model_output: F, float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`.
            sample: x, same shape.
            s_churn: how much noise is added over the whole run before each step; 0 is deterministic.
            s_tmin: lowest sigma at which noise is added.
            s_tmax: highest sigma at which noise is added.
            s_noise: scale of the added noise.
            generator: source of z.
            pred_original_sample: x0 itself, instead of the one from `model_output`.

        Raises:
            InputError: an integer timestep, or the first one of a run that is not in the schedule.
        """
        self._refuse_integer(timestep)
        i = self._index(timestep)
        sigma, sigma_next = self._sigma[i], self._sigma[i + 1]

        gamma = min(s_churn / (len(self._sigma) - 1), math.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0
        s = (1.0 + gamma) * sigma
        if gamma > 0:
            sample = sample + noise_like(model_output, generator) * (s_noise * math.sqrt(s * s - sigma * sigma))

        x0 = self._denoised(model_output, sample, s) if pred_original_sample is None else pred_original_sample
        following = x0 + (sigma_next / s) * (sample - x0)
        self._advance()
        return StepResult(following, x0)
