"""Euler on MiniMax-H3's flow, whose model points to the data and counts time towards it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, per_image
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.flow import StraightPathScheduler, shifted
from diffoundry.runtime.schedulers.options import SchedulerOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["MiniMaxH3Options", "MiniMaxH3Scheduler"]


@dataclass(frozen=True, kw_only=True)
class MiniMaxH3Options(SchedulerOptions):
    """Options of `MiniMaxH3Scheduler`, named as in diffusers."""

    shift: float = 12.0

    def check(self, owner: str) -> None:
        """Refuse a shift that turns time around."""
        super().check(owner)
        if self.shift <= 0:
            raise ConfigError(f"{owner}: option 'shift' is {self.shift}, expected more than 0.")


class MiniMaxH3Scheduler(StraightPathScheduler[MiniMaxH3Options]):
    """One Euler step from sigma to the next lower sigma'.

        x' = r x + (1 - r) x0,    x0 = x + (1 - t) v,    r = sigma' / sigma

    with the timestep t = 1 - sigma and v = x0 - noise, the opposite of other flow models. The levels are evenly spaced
    from 1 to 0, both counted as steps, and shifted; those that the shift makes equal in float32 occur once.

    Lipman et al. 2022, https://arxiv.org/abs/2210.02747; the shift as in `flow.py`. diffusers: r = `ratio`,
    x0 = `denoised`.
    """

    Options = MiniMaxH3Options
    custom_schedules = frozenset({"sigmas"})
    combines_schedules = True

    def _prepare(self) -> None:
        self._shift = float(self.options.shift)

    @property
    def shift(self) -> float:
        """The shift of the runs to come."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Change the shift for the runs to come.

        Raises:
            InputError: it is not positive.
        """
        if shift <= 0:
            raise InputError(f"MiniMaxH3Scheduler.set_shift: shift is {shift}, expected more than 0.")
        self._shift = float(shift)

    def _training_schedule(self) -> Schedule:
        # nothing is planned, and there are no training steps to list
        empty = np.empty(0, dtype=np.float32)
        return Schedule(empty, empty, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        sigmas = self._even(request) if request.sigmas is None else self._given(request.sigmas)
        return Schedule(np.float32(1) - sigmas[:-1], sigmas, len(sigmas) - 1)

    def _even(self, request: RunRequest) -> Float32Array:
        steps = request.steps
        if steps < 2:
            raise InputError(
                f"MiniMaxH3Scheduler.set_timesteps: num_inference_steps is {steps}, expected at least 2: it counts "
                "the end of the run, too."
            )
        sigmas: Float32Array = shifted(float32.linspace(1.0, 0.0, steps), self._shift)
        distinct: Float32Array = sigmas[np.append(True, sigmas[1:] != sigmas[:-1])]
        return distinct

    def _given(self, sigmas: Sequence[float]) -> Float32Array:
        levels = np.asarray(sigmas, dtype=np.float32).reshape(-1)
        if len(levels) < 2 or not np.all(np.diff(levels) < 0) or levels[-1] != 0.0:
            raise InputError(
                f"MiniMaxH3Scheduler.set_timesteps: sigmas are {levels.tolist()}, expected at least two that descend "
                "to 0."
            )
        return levels

    def index_for_timestep(self, timestep: float) -> int:
        """The first index of a timestep.

        Raises:
            InputError: the timestep is not in the schedule.
        """
        later = super().index_for_timestep(timestep)
        return min(later, int(np.argmax(self.timesteps == timestep)))

    def scale_noise(
        self, sample: Float32Array, timestep: float | Sequence[float] | NDArray[Any], noise: Float32Array
    ) -> Float32Array:
        """The sample at any time t: t x0 + (1 - t) noise.

        Args:
            sample: x0, float32, (B, ...).
            timestep: one t, or one for each image.
            noise: float32, same shape as the sample.
        """
        t = per_image(np.asarray(timestep, dtype=np.float32).reshape(-1), sample.ndim)
        return t * sample + (np.float32(1) - t) * noise

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go from sigma to the next lower sigma.

        Args:
            model_output: v, float32, (B, ...).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: not used.

        Raises:
            InputError: an integer timestep, or the first one of a run that is not in the schedule.
        """
        self._refuse_integer(timestep)
        i = self._index(timestep)
        ratio = self._sigma[i + 1] / self._sigma[i]
        following = sample + ((1.0 - ratio) * (1.0 - float(timestep))) * model_output
        self._advance()
        return StepResult(following)
