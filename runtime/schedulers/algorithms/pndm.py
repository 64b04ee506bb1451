"""PNDM: pseudo numerical methods, Runge-Kutta to start with and linear multistep from then on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.prediction import epsilon_from
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing, spaced_timesteps
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import BetaOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["PNDMOptions", "PNDMScheduler"]

_RUNGE_KUTTA_STEPS = 4
"""Least number of steps with Runge-Kutta: the first three steps make four model calls each."""


@dataclass(frozen=True, kw_only=True)
class PNDMOptions(BetaOptions):
    """Options of `PNDMScheduler`, named as in diffusers."""

    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Spacing = "leading"
    steps_offset: int = 0


class PNDMScheduler(DiscreteScheduler[PNDMOptions]):
    """Pseudo numerical methods for diffusion models on manifolds (F-PNDM).

        x' = sqrt(a' / a) x - (a' - a) e / (a sqrt(1 - a') + sqrt(a (1 - a) a'))                    (equation 9)
        e = (e1 + 2 e2 + 2 e3 + e4) / 6                               Runge-Kutta, first three steps (equation 13)
        e = (55 e_t - 59 e_{t-1} + 37 e_{t-2} - 9 e_{t-3}) / 24       linear multistep               (equation 12)

    With `skip_prk_steps` the multistep rule starts at order one, as in PLMS of latent diffusion: the second timestep
    is visited twice, and the first two outputs are averaged.

    Liu et al. 2022, Algorithm 2, https://arxiv.org/abs/2202.09778.
    diffusers: a = `alpha_prod_t`, a' = `alpha_prod_t_prev`, the outputs so far = `ets`.
    """

    Options = PNDMOptions
    compatible_names = KARRAS_COMPATIBLES

    def _prepare(self) -> None:
        super()._prepare()
        self._final_alpha_bar = 1.0 if self.options.set_alpha_to_one else self._alpha_bar[0]

    def _schedule(self, request: RunRequest) -> Schedule:
        options, steps = self.options, request.steps
        trained = options.num_train_timesteps
        descending = spaced_timesteps(
            options.timestep_spacing, steps=steps, train_steps=trained, offset=options.steps_offset
        )
        once = descending.round().astype(np.int64)
        if options.skip_prk_steps:
            return Schedule(np.concatenate([once[:1], once[1:2], once[1:]]), None, steps)
        if len(once) < _RUNGE_KUTTA_STEPS:
            raise InputError(
                f"PNDMScheduler.set_timesteps: num_inference_steps is {steps}, expected at least {_RUNGE_KUTTA_STEPS}: "
                "the first steps are Runge-Kutta's. Take more steps or set the option 'skip_prk_steps'."
            )
        # each of the first three intervals is visited at its ends and twice in the middle
        ends, middles = once[:_RUNGE_KUTTA_STEPS], once[1:_RUNGE_KUTTA_STEPS] + trained // steps // 2
        start = [t for i, middle in enumerate(middles) for t in (ends[i], middle, middle, ends[i + 1])]
        return Schedule(np.concatenate([start, once[_RUNGE_KUTTA_STEPS - 1 :]]), None, steps)

    def _reset(self) -> None:
        self._counter = 0
        self._outputs: tuple[Sample, ...] = ()
        self._held_sample: Sample | None = None
        self._accumulated: Sample | float = 0.0

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go to the next timestep, which within a Runge-Kutta step is an intermediate one.

        Args:
            model_output: float32, (B, C, H, W).
            timestep: t, one of `timesteps`, in their order.
            sample: x, same shape.
            generator: ignored, the method is deterministic.

        Raises:
            InputError: no run is planned.
        """
        interval = self.options.num_train_timesteps // self._require_run()
        runge_kutta = not self.options.skip_prk_steps and self._counter < 4 * (_RUNGE_KUTTA_STEPS - 1)
        advance = self._runge_kutta if runge_kutta else self._multistep
        following = advance(model_output, int(timestep), sample, interval)
        self._counter += 1
        return StepResult(following)

    def _runge_kutta(self, output: Sample, t: int, sample: Sample, interval: int) -> Sample:
        """One of the four calls of a step; each starts from the sample that the step began with."""
        stage = self._counter % 4
        previous = t if stage % 2 else t - interval // 2
        begin = int(self.timesteps[self._counter - stage])
        if stage == 0:
            self._outputs = (*self._outputs, output)
            self._held_sample = sample
        if stage == 3:
            output = self._accumulated + output * (1 / 6)
            self._accumulated = 0.0
        else:
            self._accumulated = self._accumulated + output * (1 / 3 if stage else 1 / 6)
        assert self._held_sample is not None
        return self._transfer(self._held_sample, begin, previous, output)

    def _multistep(self, output: Sample, t: int, sample: Sample, interval: int) -> Sample:
        """One Adams-Bashforth step of the order that the outputs so far allow."""
        previous = t - interval
        if self._counter == 1:
            # the second visit: from the first sample again, with the mean of both outputs
            output = (output + self._outputs[-1]) * 0.5
            assert self._held_sample is not None
            return self._transfer(self._held_sample, t + interval, t, output)
        if self._counter == 0:
            self._held_sample = sample
        self._outputs = (*self._outputs[-3:], output)
        e = self._outputs
        if len(e) == 2:
            output = e[1] * (3 / 2) - e[0] * (1 / 2)
        elif len(e) == 3:
            output = e[2] * (23 / 12) - e[1] * (16 / 12) + e[0] * (5 / 12)
        elif len(e) == 4:
            output = e[3] * (55 / 24) - e[2] * (59 / 24) + e[1] * (37 / 24) - e[0] * (9 / 24)
        return self._transfer(sample, t, previous, output)

    def _transfer(self, sample: Sample, t: int, previous: int, output: Sample) -> Sample:
        """Equation 9: from x at t to x at the previous timestep along the output."""
        a = self._alpha_bar[t]
        a_next = self._alpha_bar[previous] if previous >= 0 else self._final_alpha_bar
        e = epsilon_from(self.options.prediction_type, output, sample, alpha=a**0.5, sigma=(1.0 - a) ** 0.5)
        denominator = a * (1.0 - a_next) ** 0.5 + (a * (1.0 - a) * a_next) ** 0.5
        moved: Sample = sample * (a_next / a) ** 0.5 - e * ((a_next - a) / denominator)
        return moved
