"""Heun's method on the straight paths of flow matching, with optional churn."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.flow import FlowOptions, FlowScheduler, shifted
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["FlowMatchHeunDiscreteScheduler"]


class FlowMatchHeunDiscreteScheduler(FlowScheduler[FlowOptions]):
    """Two model calls for each step from sigma to sigma'; the last step, to zero, has one.

        x^ = x + sqrt(s^2 - sigma^2) S_noise z,    s = (1 + gamma) sigma
        d1 = (sigma / s) v(x^, sigma),    x1 = x^ + (sigma' - s) d1
        x' = x^ + (sigma' - s) (d1 + v(x1, sigma')) / 2

    Karras et al. 2022, Algorithm 2, https://arxiv.org/abs/2206.00364, with v as the derivative.
    diffusers: s = `sigma_hat`, d1 = `prev_derivative`. With churn it draws noise for the second call too, which
    cancels; here it is drawn and dropped. Timesteps after the first occur twice, once for each call.
    """

    Options = FlowOptions
    order = 2

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        sigmas = shifted(self._even_sigmas(steps), self.options.shift).astype(np.float32)
        timesteps = sigmas * self.options.num_train_timesteps
        return Schedule(
            np.concatenate([timesteps[:1], timesteps[1:].repeat(2)]),
            np.concatenate([sigmas[:1], sigmas[1:].repeat(2), np.zeros(1, dtype=np.float32)]),
            steps,
        )

    def _reset(self) -> None:
        # x^ and (sigma' - s) d1 / 2 between the two calls
        self._first_call: tuple[Sample, Sample] | None = None

    def scale_noise(
        self, sample: Float32Array, timestep: float | Sequence[float] | NDArray[Any], noise: Float32Array
    ) -> Float32Array:
        """The sample at the current place of the run, or where none is, at a timestep: sigma noise + (1 - sigma) x0.

        Args:
            sample: x0, float32, (B, ...).
            timestep: one of `timesteps`, the same for all images.
            noise: float32, same shape as the sample.
        """
        sigma = self._sigma[self._index(np.asarray(timestep).reshape(-1)[0])]
        return sigma * noise + (1.0 - sigma) * sample

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
    ) -> StepResult:
        """The first or the second half of a step, in turns.

        Args:
            model_output: v, float32, (B, ...).
            timestep: one of `timesteps`, in their order.
            sample: x or x1, same shape.
            s_churn: how much noise is added over the whole run before each step; 0 is deterministic.
            s_tmin: lowest sigma at which noise is added.
            s_tmax: highest sigma at which noise is added.
            s_noise: scale of the added noise.
            generator: source of z.

        Raises:
            InputError: an integer timestep, or the first one of a run that is not in the schedule.
        """
        self._refuse_integer(timestep)
        i = self._index(timestep)
        self._advance()
        first, held = self._first_call is None, self._first_call
        sigma, sigma_next = (self._sigma[i], self._sigma[i + 1]) if first else (self._sigma[i - 1], self._sigma[i])

        gamma = min(s_churn / (len(self._sigma) - 1), math.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0
        s = (1.0 + gamma) * sigma
        noise = noise_like(model_output, generator) if gamma > 0 else 0.0
        if held is not None:
            self._first_call = None
            raised, half = held
            return StepResult(raised + half + (0.5 * (sigma_next - s)) * model_output)
        raised = sample + noise * (s_noise * math.sqrt(s * s - sigma * sigma)) if gamma > 0 else sample
        half = (0.5 * (sigma_next - s) * sigma / s) * model_output
        self._first_call = (raised, half)
        return StepResult(raised + 2.0 * half)
