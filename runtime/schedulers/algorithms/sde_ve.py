"""Predictor-corrector sampling of a variance-exploding stochastic differential equation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import (
    Float32Array,
    FloatArray,
    Generator,
    Sample,
    noise_like,
    per_image,
)
from diffoundry.runtime.schedulers.base import Schedule, Scheduler, StepResult
from diffoundry.runtime.schedulers.bases.sde import SdeResult
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["ScoreSdeVeOptions", "ScoreSdeVeScheduler"]


@dataclass(frozen=True, kw_only=True)
class ScoreSdeVeOptions(TrainingOptions):
    """Options of `ScoreSdeVeScheduler`, named as in diffusers; `correct_steps` is for the caller's loop."""

    num_train_timesteps: int = 2000
    snr: float = 0.15
    sigma_min: float = 0.01
    sigma_max: float = 1348.0
    sampling_eps: float = 1e-5
    correct_steps: int = 1


class ScoreSdeVeScheduler(Scheduler[ScoreSdeVeOptions]):
    """Langevin correction and reverse diffusion over geometric noise levels.

        x <- x + e score(x, sigma) + sqrt(2 e) z,    e = 2 (r |z| / |score|)^2           `step_correct`
        x' = x + (s_i^2 - s_{i-1}^2) score(x, sigma) + sqrt(s_i^2 - s_{i-1}^2) z         `step_pred`

    with s_i = `discrete_sigmas`, s_{-1} = 0, the norms averaged over the batch. The caller's loop:

        scheduler.set_timesteps(n)
        scheduler.set_sigmas(n)
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas):
            for _ in range(scheduler.config.correct_steps):
                sample = scheduler.step_correct(model(sample, sigma), sample, generator=g).prev_sample
            sample, mean = scheduler.step_pred(model(sample, sigma), t, sample, generator=g)

    Song et al. 2020, Algorithms 2 and 4, equation 46 (reverse diffusion), https://arxiv.org/abs/2011.13456.
    diffusers: r = `snr`, e = `step_size`, s_{i-1} = `adjacent_sigma`.

    Attributes:
        sigmas: float32, (N,), the model's input at each timestep.
        discrete_sigmas: float32, (N,), s_i, ascending.
    """

    Options = ScoreSdeVeOptions
    needed_loop = "the loop of ScoreSdeVePipeline, which corrects the sample before each step with more model calls"
    discrete_sigmas: Float32Array

    def _prepare(self) -> None:
        self.discrete_sigmas = self._discrete_levels(self.options.num_train_timesteps)

    def _training_schedule(self) -> Schedule:
        timesteps = float32.linspace(1.0, self.options.sampling_eps, self.options.num_train_timesteps)
        return Schedule(timesteps, self._levels(timesteps), None)

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        # diffusers leaves the noise levels to `set_sigmas`
        return Schedule(float32.linspace(1.0, self.options.sampling_eps, steps), self.sigmas, steps)

    @property
    def init_noise_sigma(self) -> float:
        """Factor of the first noise: sigma_max."""
        return self.options.sigma_max

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        sampling_eps: float | None = None,
    ) -> None:
        """Plan the timesteps of a run; the noise levels stay until `set_sigmas`.

        Args:
            num_inference_steps: number of steps.
            device: "cpu" or None, for code that was written for diffusers.
            timesteps: not taken.
            sigmas: not taken.
            mu: not taken.
            sampling_eps: the last timestep, instead of the option's.

        Raises:
            InputError: as for every scheduler.
        """
        schedule = self._schedule(self._request(num_inference_steps, timesteps, sigmas, mu, device))
        if sampling_eps is not None:
            schedule = schedule._replace(timesteps=float32.linspace(1.0, sampling_eps, len(schedule.timesteps)))
        self._adopt(schedule)

    def set_sigmas(
        self, num_inference_steps: int, sigma_min: float | None = None, sigma_max: float | None = None
    ) -> None:
        """Plan the noise levels of a run, after `set_timesteps`.

        Args:
            num_inference_steps: number of levels in `discrete_sigmas`, that of the steps.
            sigma_min: lowest level, instead of the option's.
            sigma_max: highest level, instead of the option's.
        """
        self.discrete_sigmas = self._discrete_levels(num_inference_steps, sigma_min, sigma_max)
        self.sigmas = self._levels(self.timesteps, sigma_min, sigma_max)

    def step_pred(
        self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None
    ) -> SdeResult:
        """One step of the reverse diffusion.

        Args:
            model_output: the score, float32, (B, C, H, W).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: source of z.

        Raises:
            InputError: there are fewer noise levels than timesteps.
        """
        i = int(np.float32(timestep) * np.float32(len(self.timesteps) - 1))
        if i >= len(self.discrete_sigmas):
            raise InputError(
                f"ScoreSdeVeScheduler.step_pred: there are {len(self.discrete_sigmas)} noise levels for "
                f"{len(self.timesteps)} timesteps. Call set_sigmas({len(self.timesteps)}) after set_timesteps."
            )
        level = float(self.discrete_sigmas[i])
        below = float(self.discrete_sigmas[i - 1]) if i > 0 else 0.0
        variance = level * level - below * below
        mean = sample + variance * model_output
        return SdeResult(mean + math.sqrt(variance) * noise_like(sample, generator), mean)

    def step_correct(self, model_output: FloatArray, sample: FloatArray, *, generator: Generator = None) -> StepResult:
        """One step of Langevin dynamics at the same noise level.

        Args:
            model_output: the score, float32, (B, C, H, W).
            sample: x, same shape.
            generator: source of z.
        """
        z: FloatArray = noise_like(sample, generator)
        size = 2.0 * (self.options.snr * _mean_norm(z) / _mean_norm(model_output)) ** 2
        return StepResult(sample + size * model_output + math.sqrt(2.0 * size) * z)

    def add_noise(
        self, original_samples: FloatArray, noise: FloatArray, timesteps: Sequence[int] | NDArray[np.integer]
    ) -> FloatArray:
        """The sample at given levels: x_0 + s_i noise.

        Args:
            original_samples: x_0, float32, (B, ...).
            noise: float32, same shape.
            timesteps: integers (B,), indices i into `discrete_sigmas`.
        """
        levels = self.discrete_sigmas[np.asarray(timesteps).reshape(-1)]
        return original_samples + per_image(levels, noise.ndim) * noise

    def _discrete_levels(
        self, count: int, sigma_min: float | None = None, sigma_max: float | None = None
    ) -> Float32Array:
        low, high = self._ends(sigma_min, sigma_max)
        return float32.exp(float32.linspace(math.log(low), math.log(high), count))

    def _levels(
        self, timesteps: Float32Array, sigma_min: float | None = None, sigma_max: float | None = None
    ) -> Float32Array:
        low, high = self._ends(sigma_min, sigma_max)
        powers = np.float64(np.float32(high / low)) ** timesteps.astype(np.float64)
        return powers.astype(np.float32) * np.float32(low)

    def _ends(self, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
        options = self.options
        return (
            options.sigma_min if sigma_min is None else sigma_min,
            options.sigma_max if sigma_max is None else sigma_max,
        )


def _mean_norm(samples: FloatArray) -> float:
    """The Euclidean norm of each image, averaged over the batch."""
    return float(np.linalg.norm(samples.reshape(len(samples), -1), axis=1).mean())
