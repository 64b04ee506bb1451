"""Ancestral sampling with Euler steps: down to a lower noise level, then noise up to the next one."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Sample
from diffoundry.runtime.schedulers.arithmetic.noise import Generator, noise_like
from diffoundry.runtime.schedulers.arithmetic.prediction import denoised_from_sigma
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing, spaced_timesteps
from diffoundry.runtime.schedulers.base import RunRequest, Schedule, StepResult
from diffoundry.runtime.schedulers.bases.sigma_scheduler import SigmaScheduler
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import BetaOptions

__all__ = ["EulerAncestralDiscreteOptions", "EulerAncestralDiscreteScheduler"]


@dataclass(frozen=True, kw_only=True)
class EulerAncestralDiscreteOptions(BetaOptions):
    """Options of `EulerAncestralDiscreteScheduler`, named as in diffusers."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False


class EulerAncestralDiscreteScheduler(SigmaScheduler[EulerAncestralDiscreteOptions]):
    """One Euler step to sigma_down, then noise of sigma_up, which together reach the next level sigma'.

        sigma_up^2 = sigma'^2 (sigma^2 - sigma'^2) / sigma^2,    sigma_down^2 = sigma'^2 - sigma_up^2
        x' = x0 + (sigma_down / sigma) (x - x0) + sigma_up z

    k-diffusion, `sample_euler_ancestral`; the split of the variance is that of DDPM's posterior (Song et al. 2020,
    equation 16 with eta = 1, https://arxiv.org/abs/2010.02502).
    """

    Options = EulerAncestralDiscreteOptions
    compatible_names = KARRAS_COMPATIBLES

    def _training_schedule(self) -> Schedule:
        sigmas = np.append(self._training_sigmas[::-1], np.float32(0))
        return Schedule(np.arange(self.options.num_train_timesteps, dtype=np.float64)[::-1].copy(), sigmas, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.num_inference_steps
        assert steps is not None
        timesteps = spaced_timesteps(
            self.options.timestep_spacing,
            steps=steps,
            train_steps=self.options.num_train_timesteps,
            offset=self.options.steps_offset,
        ).astype(np.float32)
        trained = self._training_sigmas
        levels = np.interp(timesteps, np.arange(len(trained)), trained)
        return Schedule(timesteps, np.append(levels, 0.0).astype(np.float32), steps)

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go from sigma to the next lower sigma.

        Args:
            model_output: float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: source of z; drawn from at every step, also the last.

        Raises:
            InputError: an integer timestep, or the first one of a run that is not in the schedule.
        """
        self._refuse_integer(timestep)
        i = self._index(timestep)
        sigma, sigma_next = self._sigma[i], self._sigma[i + 1]
        up_squared = sigma_next**2 * max(0.0, sigma**2 - sigma_next**2) / sigma**2
        down = math.sqrt(sigma_next**2 - up_squared)

        x0 = denoised_from_sigma(self.options.prediction_type, model_output, sample, sigma)
        following = x0 + (down / sigma) * (sample - x0)
        following = following + math.sqrt(up_squared) * noise_like(model_output, generator)
        self._advance()
        return StepResult(following, x0)
