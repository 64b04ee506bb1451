"""The base of every scheduler: the plan of a run and its state."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Sample
from diffoundry.runtime.schedulers.configurable import Configurable
from diffoundry.runtime.schedulers.loop_interface import LoopInterface
from diffoundry.runtime.schedulers.options import SchedulerOptions
from diffoundry.runtime.schedulers.run_request import RunRequest
from diffoundry.runtime.schedulers.step_arguments import check_device

__all__ = ["Schedule", "Scheduler", "StepResult"]

C = TypeVar("C", bound=SchedulerOptions)


class StepResult(NamedTuple):
    """The result of `step`, also a tuple, like diffusers' `return_dict=False`.

    Attributes:
        prev_sample: the sample at the next, less noisy timestep.
        pred_original_sample: the clean sample predicted at this step, where diffusers returns it.
    """

    prev_sample: Sample
    pred_original_sample: Sample | None = None


class Schedule(NamedTuple):
    """The plan of one run.

    Attributes:
        timesteps: int64 or float32, (N,), in order, for the model.
        sigmas: noise levels, usually (N + 1,); float32, or float64 where diffusers has that; None without levels.
        num_inference_steps: as requested; differs from N where a step calls the model several times.
    """

    timesteps: NDArray[Any]
    sigmas: NDArray[Any] | None
    num_inference_steps: int | None


class Scheduler(Configurable[C], LoopInterface):
    """A sampler with diffusers' interface on NumPy arrays.

    A subclass sets `Options` and `order`, and writes `_training_schedule`, `_schedule`, `_reset` and `step`.
    State of a run is rebound, never changed in place, so that a shallow copy is a fork.
    Two instances share nothing. One instance serves one loop at a time.
    """

    combines_schedules: ClassVar[bool] = False
    """True where `num_inference_steps`, `timesteps` and `sigmas` may be passed together."""

    @property
    def init_noise_sigma(self) -> float:
        """Factor of the first noise."""
        return 1.0

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Plan a run and forget the one before.

        Args:
            num_inference_steps: number of steps.
            device: "cpu" or None, for code that was written for diffusers.
            timesteps: the timesteps themselves, descending, where the scheduler takes them.
            sigmas: the noise levels themselves, descending, where the scheduler takes them.
            mu: exponent of the resolution-dependent shift, for flow schedules with `use_dynamic_shifting`.

        Raises:
            InputError: an argument that this scheduler does not take, none at all, or two that exclude each other.
        """
        self._adopt(self._schedule(self._request(num_inference_steps, timesteps, sigmas, mu, device)))

    def scale_model_input(self, sample: Sample, timestep: float | None = None) -> Sample:  # noqa: ARG002
        """Scale the sample to the model's input at a timestep; most schedulers return the sample itself."""
        return sample

    def copy(self) -> Self:
        """Fork: same options, same place in the run, independent from here on."""
        return copy.copy(self)

    def _set_up(self) -> None:
        self._prepare()
        self._adopt(self._training_schedule())

    def _prepare(self) -> None:
        """Compute what depends on the options alone."""

    def _training_schedule(self) -> Schedule:
        """Return the schedule before `set_timesteps`: every training step, descending."""
        raise NotImplementedError

    def _schedule(self, request: RunRequest) -> Schedule:
        """Return the schedule of a run; pure, so that a refused request leaves the scheduler as it was."""
        raise NotImplementedError

    def _reset(self) -> None:
        """Bind fresh run state: histories, counters. Called whenever a schedule is adopted."""

    def _adopt(self, schedule: Schedule) -> None:
        self.timesteps = schedule.timesteps
        self.sigmas = schedule.sigmas
        self.num_inference_steps = schedule.num_inference_steps
        self._reset()

    def _request(
        self,
        num_inference_steps: int | None,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        mu: float | None,
        device: object = None,
    ) -> RunRequest:
        """Check the arguments of `set_timesteps`."""
        check_device(type(self).__name__, device)
        request = RunRequest(num_inference_steps=num_inference_steps, timesteps=timesteps, sigmas=sigmas, mu=mu)
        request.check(type(self).__name__, takes=self.custom_schedules, combines=self.combines_schedules)
        return request

    def _require_run(self) -> int:
        """Return the number of inference steps.

        Raises:
            InputError: `set_timesteps` was not called.
        """
        if self.num_inference_steps is None:
            raise InputError(f"{type(self).__name__}.step: no run is planned. Call set_timesteps first.")
        return self.num_inference_steps
