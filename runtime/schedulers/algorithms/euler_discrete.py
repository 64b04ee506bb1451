"""Euler's method on the probability flow ODE, in noise levels."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like, per_image
from diffoundry.runtime.schedulers.arithmetic.sigmas import sigma_to_timestep
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.spaced_sigmas import SpacedSigmaOptions, SpacedSigmaScheduler
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["EulerDiscreteOptions", "EulerDiscreteScheduler"]


@dataclass(frozen=True, kw_only=True)
class EulerDiscreteOptions(SpacedSigmaOptions):
    """Options of `EulerDiscreteScheduler`, named as in diffusers."""

    prediction_type: Literal["epsilon", "sample", "original_sample", "v_prediction"] = "epsilon"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: float | None = None
    sigma_max: float | None = None
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def log_sigma_timesteps(self) -> bool:
        """True where timesteps are 0.25 log sigma instead of training steps (EDM's c_noise)."""
        return self.timestep_type == "continuous" and self.prediction_type == "v_prediction"


class EulerDiscreteScheduler(SpacedSigmaScheduler[EulerDiscreteOptions]):
    """One Euler step from sigma to the next lower sigma', with optional churn.

        x^ = x + sqrt(s^2 - sigma^2) S_noise z,    s = (1 + gamma) sigma
        x' = x0 + (sigma' / s) (x^ - x0)

    which is x^ + (sigma' - s) dx/dsigma with dx/dsigma = (x^ - x0) / s.

    Karras et al. 2022, Algorithm 2 without its second-order correction, https://arxiv.org/abs/2206.00364.
    diffusers: s = `sigma_hat`, x0 = `pred_original_sample`, dx/dsigma = `derivative`.
    """

    Options = EulerDiscreteOptions
    compatible_names = KARRAS_COMPATIBLES
    custom_schedules = frozenset({"timesteps", "sigmas"})

    def _training_schedule(self) -> Schedule:
        sigmas = np.append(self._training_sigmas[::-1], np.float32(0))
        timesteps = np.arange(self.options.num_train_timesteps, dtype=np.float32)[::-1].copy()
        return Schedule(self._model_times(timesteps, sigmas), sigmas, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        timesteps: NDArray[Any]
        if request.sigmas is not None:
            sigmas = np.asarray(request.sigmas, dtype=np.float32)
            timesteps = sigma_to_timestep(sigmas[:-1], self._log_training_sigmas)
        else:
            if request.timesteps is not None and self.options.log_sigma_timesteps:
                self._refuse_timesteps("'timestep_type': 'continuous' with 'v_prediction'")
            timesteps, levels = self._levels(request, self.options.num_train_timesteps)
            last = self._training_sigmas[0] if self.options.final_sigmas_type == "sigma_min" else 0.0
            sigmas = np.append(levels, last).astype(np.float32)
        timesteps = self._model_times(timesteps.astype(np.float32), sigmas)
        return Schedule(timesteps, sigmas, request.num_inference_steps or len(timesteps))

    def _trained_levels(self, timesteps: Float32Array, steps: int) -> NDArray[np.floating[Any]]:
        if self.options.interpolation_type == "linear":
            return super()._trained_levels(timesteps, steps)
        first, last = self._log_training_sigmas[[-1, 0]].tolist()
        return float32.exp(float32.linspace(first, last, steps + 1))

    def _model_times(self, timesteps: Float32Array, sigmas: Float32Array) -> Float32Array:
        """Return the timesteps, or 0.25 log sigma, as the options have it."""
        return float32.log(sigmas[:-1]) * 0.25 if self.options.log_sigma_timesteps else timesteps

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
        """Go from sigma to the next lower sigma.

        Args:
            model_output: float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`.
            sample: x, same shape.
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
        sigma, sigma_next = self._sigma[i], self._sigma[i + 1]

        gamma = min(s_churn / (len(self._sigma) - 1), math.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0
        s = (1.0 + gamma) * sigma
        if gamma > 0:
            sample = sample + noise_like(model_output, generator) * (s_noise * math.sqrt(s * s - sigma * sigma))

        # diffusers converts v-predictions at sigma, not at the raised level
        x0 = self._denoised(model_output, sample, s if self.options.prediction_type == "epsilon" else sigma)
        following = x0 + (sigma_next / s) * (sample - x0)
        self._advance()
        return StepResult(following, x0)

    def get_velocity(self, sample: NDArray[Any], noise: NDArray[Any], timesteps: NDArray[Any]) -> NDArray[Any]:
        """The v-prediction target, with diffusers' lookup: alpha_bar at each timestep's index in the schedule."""
        indices = [self.index_for_timestep(timestep) for timestep in np.asarray(timesteps).reshape(-1)]
        alpha_bar = self.alphas_cumprod[indices]
        signal, spread = float32.sqrt(alpha_bar), float32.sqrt(np.float32(1) - alpha_bar)
        velocity: NDArray[Any] = per_image(signal, sample.ndim) * noise - per_image(spread, sample.ndim) * sample
        return velocity
