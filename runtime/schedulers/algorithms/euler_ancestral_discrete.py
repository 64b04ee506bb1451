"""Ancestral sampling with Euler steps: down to a lower noise level, then noise up to the next one."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.spaced_sigmas import SpacedOptions, SpacedSigmaScheduler
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["EulerAncestralDiscreteOptions", "EulerAncestralDiscreteScheduler"]


@dataclass(frozen=True, kw_only=True)
class EulerAncestralDiscreteOptions(SpacedOptions):
    """Options of `EulerAncestralDiscreteScheduler`, named as in diffusers."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = False


class EulerAncestralDiscreteScheduler(SpacedSigmaScheduler[EulerAncestralDiscreteOptions]):
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
        timesteps, levels = self._levels(request, self.options.num_train_timesteps)
        return Schedule(timesteps, np.append(levels, 0.0).astype(np.float32), request.steps)

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

        x0 = self._denoised(model_output, sample, sigma)
        following = x0 + (down / sigma) * (sample - x0)
        following = following + math.sqrt(up_squared) * noise_like(model_output, generator)
        self._advance()
        return StepResult(following, x0)
