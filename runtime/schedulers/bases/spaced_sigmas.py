"""The base of Heun, KDPM2 and LMS: noise levels at spaced timesteps, or placed between their ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.sigmas import carried_ends, placed_sigmas, sigma_to_timestep
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing, spaced_timesteps
from diffoundry.runtime.schedulers.base import RunRequest, Schedule
from diffoundry.runtime.schedulers.bases.sigma_scheduler import SigmaScheduler
from diffoundry.runtime.schedulers.options import BetaOptions, SigmaOptions, SigmaSchedule

__all__ = ["SpacedSigmaOptions", "SpacedSigmaScheduler"]


@dataclass(frozen=True, kw_only=True)
class SpacedSigmaOptions(BetaOptions, SigmaOptions):
    """Options that all these schedulers have, named as in diffusers."""

    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0


P = TypeVar("P", bound=SpacedSigmaOptions)


class SpacedSigmaScheduler(SigmaScheduler[P]):
    """A subclass writes `_plan`, the schedule over any number of training steps."""

    karras_between_own_ends: ClassVar[bool] = False
    """Whether Karras sigmas keep the run's own ends where a config carries `sigma_min` and `sigma_max`."""

    def _plan(self, request: RunRequest, train_steps: int) -> Schedule:
        raise NotImplementedError

    def _training_schedule(self) -> Schedule:
        trained = self.options.num_train_timesteps
        return self._plan(RunRequest(num_inference_steps=trained), trained)

    def _schedule(self, request: RunRequest) -> Schedule:
        return self._plan(request, self.options.num_train_timesteps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        num_train_timesteps: int | None = None,
    ) -> None:
        """Plan a run and forget the one before; arguments as for the base class, and one more.

        Args:
            num_inference_steps: number of steps.
            timesteps: the timesteps themselves, where the scheduler takes them.
            sigmas: not taken.
            mu: not taken.
            num_train_timesteps: number of training steps to space the timesteps over, instead of the option.
        """
        request = self._request(num_inference_steps, timesteps, sigmas, mu)
        self._adopt(self._plan(request, num_train_timesteps or self.options.num_train_timesteps))

    def _levels(self, request: RunRequest, train_steps: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Timesteps and noise levels of a run, without the final zero.

        Returns:
            timesteps, float32 or where a rule of `use_*_sigmas` has placed them float64, and float64 levels.

        Raises:
            InputError: custom timesteps beside such a rule.
        """
        options, rule, trained = self.options, self.options.sigma_schedule, self._training_sigmas
        if request.timesteps is None:
            steps = request.num_inference_steps
            assert steps is not None
            spacing, offset = options.timestep_spacing, options.steps_offset
            timesteps = spaced_timesteps(spacing, steps=steps, train_steps=train_steps, offset=offset)
        elif rule is SigmaSchedule.TRAINED:
            timesteps = np.asarray(request.timesteps, dtype=np.float64)
        else:
            raise InputError(
                f"{type(self).__name__}.set_timesteps: got timesteps, which option 'use_{rule}_sigmas' computes "
                "itself: pass num_inference_steps, or turn the option off."
            )
        told = timesteps.astype(np.float32)
        levels = np.interp(told, np.arange(len(trained)), trained)
        if rule is SigmaSchedule.TRAINED:
            return told, levels
        # as many as asked for, where "trailing" spaces one more
        low, high = self._ends(rule, levels[-1].item(), levels[0].item())
        placed = placed_sigmas(rule, low, high, request.num_inference_steps or len(told))
        return sigma_to_timestep(placed, self._log_training_sigmas), placed

    def _ends(self, rule: SigmaSchedule, low: float, high: float) -> tuple[float, float]:
        """The ends of the levels that a rule places, from those of the spaced ones."""
        if rule is SigmaSchedule.KARRAS and self.karras_between_own_ends:
            return low, high
        return carried_ends(self.config, low, high)
