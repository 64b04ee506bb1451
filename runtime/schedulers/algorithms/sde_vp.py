"""Euler-Maruyama sampling of a variance-preserving stochastic differential equation."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.base import Schedule, Scheduler, StepResult
from diffoundry.runtime.schedulers.bases.sde import SdeResult
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["ScoreSdeVpOptions", "ScoreSdeVpScheduler"]


@dataclass(frozen=True, kw_only=True)
class ScoreSdeVpOptions(TrainingOptions):
    """Options of `ScoreSdeVpScheduler`, named as in diffusers."""

    num_train_timesteps: int = 2000
    beta_min: float = 0.1
    beta_max: float = 20
    sampling_eps: float = 1e-3


class ScoreSdeVpScheduler(Scheduler[ScoreSdeVpOptions]):
    """Reverse-time variance-preserving SDE, in N steps of 1 / N.

        x' = x + (beta x / 2 - beta F / d) / N + sqrt(beta / N) z
        beta = beta_min + t (beta_max - beta_min)
        d^2 = 1 - exp(-t^2 (beta_max - beta_min) / 2 - t beta_min)

    with F the model's output (the score is -F / d) and z standard normal noise.

    Song et al. 2020, equations 6, 25 and 33, https://arxiv.org/abs/2011.13456.
    diffusers: d = `std`, beta = `beta_t`, log of the mean's coefficient = `log_mean_coeff`.
    """

    Options = ScoreSdeVpOptions
    made_for = "score models of a variance-preserving SDE"
    runs_unscaled = False

    def _training_schedule(self) -> Schedule:
        # nothing is planned, and there are no training steps to list
        return Schedule(np.empty(0, dtype=np.float32), None, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        return Schedule(float32.linspace(1.0, self.options.sampling_eps, steps), None, steps)

    def step_pred(self, score: Sample, x: Sample, t: float, *, generator: Generator = None) -> SdeResult:
        """One Euler-Maruyama step.

        Args:
            score: F, float32, (B, C, H, W).
            x: the sample, same shape.
            t: one of `timesteps`.
            generator: source of z.

        Raises:
            InputError: no run is planned.
        """
        low, high, time = self.options.beta_min, self.options.beta_max, float(t)
        step = 1.0 / self._require_run()
        beta = low + time * (high - low)
        deviation = math.sqrt(-math.expm1(-0.5 * time * time * (high - low) - time * low))
        mean = (1.0 + 0.5 * step * beta) * x - (step * beta / deviation) * score
        return SdeResult(mean + math.sqrt(beta * step) * noise_like(x, generator), mean)

    def _loop_step(
        self, model_output: Sample, timestep: Any, sample: Sample, *, generator: Generator, **arguments: Any
    ) -> StepResult:
        """`step_pred`, in the order of arguments of the other schedulers."""
        return StepResult(self.step_pred(model_output, sample, timestep, generator=generator, **arguments).prev_sample)
