"""The stochastic sampler of Karras et al. 2022 on a variance-exploding schedule."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.base import Schedule, Scheduler
from diffoundry.runtime.schedulers.options import SchedulerOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["KarrasVeOptions", "KarrasVeResult", "KarrasVeScheduler"]


class KarrasVeResult(NamedTuple):
    """The result of a step of `KarrasVeScheduler`.

    Attributes:
        prev_sample: the sample at the next, lower noise level.
        derivative: dx/dsigma at the level that the step came from, for `step_correct`.
        pred_original_sample: the clean sample predicted at this step.
    """

    prev_sample: Sample
    derivative: Sample
    pred_original_sample: Sample | None = None


@dataclass(frozen=True, kw_only=True)
class KarrasVeOptions(SchedulerOptions):
    """Options of `KarrasVeScheduler`, named as in diffusers."""

    sigma_min: float = 0.02
    sigma_max: float = 100
    s_noise: float = 1.007
    s_churn: float = 80
    s_min: float = 0.05
    s_max: float = 50


class KarrasVeScheduler(Scheduler[KarrasVeOptions]):
    """Heun's method after raising the noise level a little.

        x^ = x + sqrt(s^2 - sigma^2) S_noise z,    s = (1 + gamma) sigma     `add_noise_to_input`
        d = -F(x^, s),    x' = x^ + (sigma' - s) d                             `step`
        d' = -F(x', sigma'),    x' <- x^ + (sigma' - s) (d + d') / 2           `step_correct`

    F is the model's output, scaled so that x0 = x + sigma F. The caller goes through the levels:

        for t in scheduler.timesteps:
            sigma, sigma_prev = scheduler.schedule[t], scheduler.schedule[t - 1] if t > 0 else 0
            sample_hat, sigma_hat = scheduler.add_noise_to_input(sample, sigma, generator=g)
            ...

    Karras et al. 2022, Algorithm 2, https://arxiv.org/abs/2206.00364. Its Table 1 has sigma_i^2 where `schedule` has
    sigma_i: diffusers leaves the root out, and so does this. diffusers: s = `sigma_hat`, d = `derivative`,
    d' = `derivative_corr`.

    Attributes:
        schedule: float32, (N,), the noise level of each timestep, ascending.
    """

    Options = KarrasVeOptions
    order = 2
    needed_loop = "the loop of KarrasVePipeline, which adds noise before each model call and corrects each step"
    schedule: Float32Array

    @property
    def init_noise_sigma(self) -> float:
        """Factor of the first noise: sigma_max."""
        return self.options.sigma_max

    def _training_schedule(self) -> Schedule:
        # there are no training steps to list
        return Schedule(np.empty(0, dtype=np.int64), None, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        if steps < 2:
            raise InputError(
                f"KarrasVeScheduler.set_timesteps: num_inference_steps is {steps}, expected at least 2: its levels "
                "hold both sigma_max and sigma_min."
            )
        return Schedule(np.arange(steps)[::-1].copy(), None, steps)

    def _reset(self) -> None:
        # in float32, as torch computes it from the integer timesteps
        highest, lowest = self.options.sigma_max**2, self.options.sigma_min**2
        place = self.timesteps.astype(np.float32) / np.float32(max(1, len(self.timesteps) - 1))
        powers = np.float64(np.float32(lowest / highest)) ** place.astype(np.float64)
        self.schedule = powers.astype(np.float32) * np.float32(highest)

    def raised_level(self, sigma: float) -> float:
        """Return s, the level to which `add_noise_to_input` raises sigma; sigma itself outside `s_min` to `s_max`.

        Raises:
            InputError: no run is planned.
        """
        options, level = self.options, float(sigma)
        churn = min(options.s_churn / self._require_run(), 2**0.5 - 1)
        return level * (1.0 + churn) if options.s_min <= level <= options.s_max else level

    def add_noise_to_input(self, sample: Sample, sigma: float, *, generator: Generator = None) -> tuple[Sample, float]:
        """Raise the noise level from sigma to s.

        Args:
            sample: x, float32, (B, C, H, W).
            sigma: its noise level.
            generator: source of z; noise is drawn also where the level stays.

        Returns:
            x^ and s.

        Raises:
            InputError: no run is planned.
        """
        sigma, s = float(sigma), self.raised_level(sigma)
        z = noise_like(sample, generator)
        return sample + self.options.s_noise * (s * s - sigma * sigma) ** 0.5 * z, s

    def step(  # type: ignore[override]  # diffusers' own arguments and output
        self, model_output: Sample, sigma_hat: float, sigma_prev: float, sample_hat: Sample
    ) -> KarrasVeResult:
        """Euler's step from s to sigma'.

        Args:
            model_output: F(x^, s), float32, (B, C, H, W).
            sigma_hat: s.
            sigma_prev: sigma', the next, lower level; 0 after the last.
            sample_hat: x^, same shape.
        """
        s, following = float(sigma_hat), float(sigma_prev)
        x0 = sample_hat + s * model_output
        return KarrasVeResult(sample_hat + (s - following) * model_output, -model_output, x0)

    def step_correct(
        self,
        model_output: Sample,
        sigma_hat: float,
        sigma_prev: float,
        sample_hat: Sample,
        sample_prev: Sample,
        derivative: Sample,
    ) -> KarrasVeResult:
        """Heun's correction of `step`, where sigma' is not 0.

        Args:
            model_output: F(x', sigma'), float32, (B, C, H, W).
            sigma_hat: s.
            sigma_prev: sigma'.
            sample_hat: x^, same shape.
            sample_prev: x', from `step`.
            derivative: d, from `step`.
        """
        s, following = float(sigma_hat), float(sigma_prev)
        x0 = sample_prev + following * model_output
        corrected = sample_hat + (0.5 * (following - s)) * (derivative - model_output)
        return KarrasVeResult(corrected, derivative, x0)
