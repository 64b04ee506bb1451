"""Euler's method on the straight paths of flow matching, also with fresh noise at every step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.base import StepResult
from diffoundry.runtime.schedulers.bases.flow import ShiftedFlowOptions, ShiftedFlowScheduler

__all__ = ["FlowMatchEulerDiscreteOptions", "FlowMatchEulerDiscreteScheduler"]


@dataclass(frozen=True, kw_only=True)
class FlowMatchEulerDiscreteOptions(ShiftedFlowOptions):
    """Options of `FlowMatchEulerDiscreteScheduler`, named as in diffusers."""

    stochastic_sampling: bool = False


class FlowMatchEulerDiscreteScheduler(ShiftedFlowScheduler[FlowMatchEulerDiscreteOptions]):
    """One Euler step along the velocity v from sigma to the next sigma'.

        x' = x + (sigma' - sigma) v
        x' = (1 - sigma') (x - sigma v) + sigma' z          with `stochastic_sampling`

    Esser et al. 2024, equation 1, https://arxiv.org/abs/2403.03206. The stochastic form predicts the image and noises
    it again, as consistency models do (Song et al. 2023, Algorithm 1, https://arxiv.org/abs/2303.01469).
    """

    Options = FlowMatchEulerDiscreteOptions

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        generator: Generator = None,
        per_token_timesteps: NDArray[np.floating] | None = None,
    ) -> StepResult:
        """Go from sigma to the next sigma'.

        Args:
            model_output: v, float32, (B, ...).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: source of z.
            per_token_timesteps: (B, N) for samples (B, N, C): each token has its own timestep, and goes to the next
                lower sigma of the schedule. diffusers steps by (sigma - sigma') there, so the caller passes -v.

        Raises:
            InputError: an integer timestep, or the first one of a run that is not in the schedule.
        """
        self._refuse_integer(timestep)
        i = self._index(timestep)
        self._advance()
        if per_token_timesteps is not None:
            return StepResult(self._step_per_token(model_output, sample, per_token_timesteps, generator))
        sigma, sigma_next = self._sigma[i], self._sigma[i + 1]
        if self.options.stochastic_sampling:
            x0 = sample - sigma * model_output
            return StepResult((1.0 - sigma_next) * x0 + sigma_next * noise_like(sample, generator))
        return StepResult(sample + (sigma_next - sigma) * model_output)

    def _step_per_token(
        self, output: Sample, sample: Sample, timesteps: NDArray[np.floating], generator: Generator
    ) -> Float32Array:
        sigma = np.asarray(timesteps, dtype=np.float32) / self.options.num_train_timesteps
        levels = self.sigmas[:, None, None]
        sigma_next = np.where(levels < sigma - 1e-6, levels, np.float32(0)).max(axis=0)
        sigma, sigma_next = sigma[..., None], sigma_next[..., None]
        if self.options.stochastic_sampling:
            x0 = sample - sigma * output
            noised: Float32Array = (1.0 - sigma_next) * x0 + sigma_next * noise_like(sample, generator)
            return noised
        following: Float32Array = sample + (sigma - sigma_next) * output
        return following
