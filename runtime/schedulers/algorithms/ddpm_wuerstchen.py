"""Würstchen's DDPM: continuous time from 1 to 0 on a cosine schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray, Generator, Sample, noise_like, per_image
from diffoundry.runtime.schedulers.base import Schedule, Scheduler, StepResult
from diffoundry.runtime.schedulers.options import SchedulerOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DDPMWuerstchenOptions", "DDPMWuerstchenScheduler"]


@dataclass(frozen=True, kw_only=True)
class DDPMWuerstchenOptions(SchedulerOptions):
    """Options of `DDPMWuerstchenScheduler`, named as in diffusers."""

    scaler: float = 1.0
    s: float = 0.008


class DDPMWuerstchenScheduler(Scheduler[DDPMWuerstchenOptions]):
    """DDPM in continuous time t.

        x_{t'} = (x_t - (1 - r) epsilon / sqrt(1 - a)) / sqrt(r) + sqrt((1 - r) (1 - a') / (1 - a)) z
        a = cos^2((u + s) / (1 + s) pi / 2) / cos^2(s / (1 + s) pi / 2),    r = a / a'

    with a' the same at the next timestep t', z standard normal noise, none at t' = 0, and time warped by the option
    `scaler` c: u = t^c for c < 1, else 1 - (1 - t)^c. `timesteps` has one more value than there are model calls: the
    end of the run.

    Pernias et al. 2023 (Würstchen), https://arxiv.org/abs/2306.00637; Ho et al. 2020, Algorithm 2,
    https://arxiv.org/abs/2006.11239; Nichol & Dhariwal 2021, equation 17, https://arxiv.org/abs/2102.09672.
    diffusers: a = `alpha_cumprod`, a' = `alpha_cumprod_prev`, r = `alpha`.
    """

    Options = DDPMWuerstchenOptions
    made_for = "Wuerstchen models"
    runs_unscaled = False
    custom_schedules = frozenset({"timesteps"})
    combines_schedules = True

    def _training_schedule(self) -> Schedule:
        # there are no training steps to list
        return Schedule(np.empty(0, dtype=np.float32), None, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        if request.timesteps is not None:
            timesteps = np.asarray(request.timesteps, dtype=np.float32)
        else:
            timesteps = float32.linspace(1.0, 0.0, request.steps + 1)
        return Schedule(timesteps, None, len(timesteps) - 1)

    @property
    def model_timesteps(self) -> NDArray[Any]:
        """All of `timesteps` but the last, which is where the run ends."""
        self._require_run()
        return self.timesteps[:-1]

    def _alpha_bar(self, timesteps: FloatArray) -> NDArray[np.float64]:
        """The signal's variance at timesteps in [0, 1], limited as in diffusers."""
        t = np.asarray(timesteps, dtype=np.float64)
        scaler, s = self.options.scaler, float(np.float32(self.options.s))
        if scaler > 1:
            t = 1.0 - (1.0 - t) ** scaler
        elif scaler < 1:
            t = t**scaler
        level = np.cos((t + s) / (1.0 + s) * (math.pi / 2)) ** 2 / math.cos(s / (1.0 + s) * (math.pi / 2)) ** 2
        limited: NDArray[np.float64] = np.clip(level, 0.0001, 0.9999)
        return limited

    def _next_timestep(self, timestep: float) -> float:
        """The timestep after the one that is nearest.

        Raises:
            InputError: that is the last one, or no run is planned.
        """
        self._require_run()
        following = int(np.abs(self.timesteps - np.float32(timestep)).argmin()) + 1
        if following == len(self.timesteps):
            raise InputError(
                f"DDPMWuerstchenScheduler.step: timestep {timestep} is where the run ends, expected one of "
                "`model_timesteps`, which are all `timesteps` but the last."
            )
        return float(self.timesteps[following])

    def step(
        self,
        model_output: Sample,
        timestep: float | FloatArray,
        sample: Sample,
        *,
        generator: Generator = None,
    ) -> StepResult:
        """Go from x_t to x_{t'}.

        Args:
            model_output: epsilon, float32, (B, C, H, W).
            timestep: t, one of `timesteps`; also an array with that value for each image, as diffusers wants it.
            sample: x_t, same shape.
            generator: source of z.

        Raises:
            InputError: the timestep is the end of the run, or no run is planned.
        """
        t = float(np.ravel(timestep)[0])
        following = self._next_timestep(t)
        a, a_next = self._alpha_bar(np.array([t, following])).tolist()
        r = a / a_next
        deviation = ((1.0 - r) * (1.0 - a_next) / (1.0 - a)) ** 0.5 if following != 0.0 else 0.0
        mean = (sample - ((1.0 - r) / (1.0 - a) ** 0.5) * model_output) * (1.0 / r**0.5)
        return StepResult(mean + deviation * noise_like(model_output, generator))

    def add_noise(
        self, original_samples: FloatArray, noise: FloatArray, timesteps: Sequence[float] | FloatArray
    ) -> FloatArray:
        """The sample at given timesteps: sqrt(a) x_0 + sqrt(1 - a) noise.

        Args:
            original_samples: x_0, float32, (B, ...).
            noise: float32, same shape.
            timesteps: (B,), in [0, 1].
        """
        level = self._alpha_bar(np.asarray(timesteps).reshape(-1)).astype(np.float32)
        signal, spread = float32.sqrt(level), float32.sqrt(np.float32(1) - level)
        noisy: FloatArray = (
            per_image(signal, original_samples.ndim) * original_samples + per_image(spread, noise.ndim) * noise
        )
        return noisy
