"""The base of Heun, KDPM2 and LMS: a run may be spaced over another number of training steps."""

from collections.abc import Sequence
from typing import ClassVar, TypeVar

from diffoundry.runtime.schedulers.base import Schedule
from diffoundry.runtime.schedulers.bases.spaced_sigmas import SpacedSigmaOptions, SpacedSigmaScheduler
from diffoundry.runtime.schedulers.options import SigmaSchedule
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["RespacedSigmaScheduler"]

P = TypeVar("P", bound=SpacedSigmaOptions)


class RespacedSigmaScheduler(SpacedSigmaScheduler[P]):
    """A subclass writes `_plan`, the schedule over any number of training steps."""

    karras_between_own_ends: ClassVar[bool] = False
    """True where Karras sigmas keep the run's own ends although the config has `sigma_min` and `sigma_max`."""

    def _plan(self, request: RunRequest, train_steps: int) -> Schedule:
        raise NotImplementedError

    def _ends(self, rule: SigmaSchedule, low: float, high: float) -> tuple[float, float]:
        own = rule is SigmaSchedule.KARRAS and self.karras_between_own_ends
        return (low, high) if own else super()._ends(rule, low, high)

    def _training_schedule(self) -> Schedule:
        trained = self.options.num_train_timesteps
        return self._plan(RunRequest(num_inference_steps=trained), trained)

    def _schedule(self, request: RunRequest) -> Schedule:
        return self._plan(request, self.options.num_train_timesteps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        num_train_timesteps: int | None = None,
    ) -> None:
        """Plan a run and forget the one before; arguments as for the base class, and one more.

        Args:
            num_inference_steps: number of steps.
            device: "cpu" or None, for code that was written for diffusers.
            timesteps: the timesteps themselves, where the scheduler takes them.
            sigmas: not taken.
            mu: not taken.
            num_train_timesteps: number of training steps to space the timesteps over, instead of the option.
        """
        request = self._request(num_inference_steps, timesteps, sigmas, mu, device)
        self._adopt(self._plan(request, num_train_timesteps or self.options.num_train_timesteps))
