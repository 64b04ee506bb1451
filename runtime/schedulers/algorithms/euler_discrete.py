"""Euler's method on the probability flow ODE, in noise levels."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Sample, per_image
from diffoundry.runtime.schedulers.arithmetic.noise import Generator, noise_like
from diffoundry.runtime.schedulers.arithmetic.prediction import denoised_from_sigma
from diffoundry.runtime.schedulers.arithmetic.sigmas import carried_ends, placed_sigmas, sigma_to_timestep
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing, spaced_timesteps
from diffoundry.runtime.schedulers.base import RunRequest, Schedule, StepResult
from diffoundry.runtime.schedulers.bases.sigma_scheduler import SigmaScheduler
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import BetaOptions, SigmaOptions, SigmaSchedule

__all__ = ["EulerDiscreteOptions", "EulerDiscreteScheduler"]


@dataclass(frozen=True, kw_only=True)
class EulerDiscreteOptions(BetaOptions, SigmaOptions):
    """Options of `EulerDiscreteScheduler`, named as in diffusers."""

    prediction_type: Literal["epsilon", "sample", "original_sample", "v_prediction"] = "epsilon"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: float | None = None
    sigma_max: float | None = None
    timestep_spacing: Spacing = "linspace"
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def log_sigma_timesteps(self) -> bool:
        """Whether the model is told 0.25 log sigma instead of a training step (EDM's c_noise)."""
        return self.timestep_type == "continuous" and self.prediction_type == "v_prediction"


class EulerDiscreteScheduler(SigmaScheduler[EulerDiscreteOptions]):
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
        if self.options.log_sigma_timesteps:
            return Schedule(_quarter_log(sigmas[:-1]), sigmas, None)
        return Schedule(np.arange(self.options.num_train_timesteps, dtype=np.float32)[::-1].copy(), sigmas, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        if request.sigmas is not None:
            sigmas = np.asarray(request.sigmas, dtype=np.float32)
            timesteps: NDArray[Any] = sigma_to_timestep(sigmas[:-1], self._log_training_sigmas)
        else:
            timesteps, levels = self._levels(request)
            last = self._training_sigmas[0] if self.options.final_sigmas_type == "sigma_min" else 0.0
            sigmas = np.append(levels, last).astype(np.float32)
        told = _quarter_log(sigmas[:-1]) if self.options.log_sigma_timesteps else timesteps.astype(np.float32)
        return Schedule(told, sigmas, request.num_inference_steps or len(told))

    def _levels(self, request: RunRequest) -> tuple[NDArray[Any], NDArray[Any]]:
        """Timesteps and noise levels of a run, without the final level."""
        options = self.options
        if request.timesteps is not None:
            self._check_custom_timesteps()
            timesteps: NDArray[Any] = np.asarray(request.timesteps, dtype=np.float32)
            steps = len(timesteps)
        else:
            assert request.num_inference_steps is not None
            steps = request.num_inference_steps
            timesteps = spaced_timesteps(
                options.timestep_spacing,
                steps=steps,
                train_steps=options.num_train_timesteps,
                offset=options.steps_offset,
            ).astype(np.float32)

        trained = self._training_sigmas
        levels: NDArray[Any]
        if options.interpolation_type == "log_linear":
            ends = self._log_training_sigmas[[-1, 0]].tolist()
            levels = float32.exp(float32.linspace(ends[0], ends[1], steps + 1))
        else:
            levels = np.interp(timesteps, np.arange(len(trained)), trained)
        if options.sigma_schedule is not SigmaSchedule.TRAINED:
            low, high = carried_ends(self.config, levels[-1].item(), levels[0].item())
            levels = placed_sigmas(options.sigma_schedule, low, high, steps)
            timesteps = sigma_to_timestep(levels, self._log_training_sigmas)
        return timesteps, levels

    def _check_custom_timesteps(self) -> None:
        """Refuse custom timesteps where the options compute them from the noise levels.

        Raises:
            InputError: naming the option.
        """
        options = self.options
        blocker = None
        if options.sigma_schedule is not SigmaSchedule.TRAINED:
            blocker = f"'use_{options.sigma_schedule}_sigmas'"
        if options.log_sigma_timesteps:
            blocker = "'timestep_type': 'continuous' with 'v_prediction'"
        if blocker:
            raise InputError(
                f"EulerDiscreteScheduler.set_timesteps: got timesteps, which option {blocker} computes itself: "
                "pass num_inference_steps, or turn the option off."
            )

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
        prediction = self.options.prediction_type
        x0 = denoised_from_sigma(prediction, model_output, sample, s if prediction == "epsilon" else sigma)
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


def _quarter_log(sigmas: Float32Array) -> Float32Array:
    return float32.log(sigmas) * 0.25
