"""The bases of schedulers with a step counter, and of those that walk a list of noise levels with it."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, per_image
from diffoundry.runtime.schedulers.base import Schedule, Scheduler
from diffoundry.runtime.schedulers.options import SchedulerOptions

__all__ = ["CountedScheduler", "IndexedScheduler"]

C = TypeVar("C", bound=SchedulerOptions)


class CountedScheduler(Scheduler[C]):
    """A scheduler whose place in the run is an index into `timesteps`.

    The index starts at `begin_index` when that is set (image to image), else where the first timestep is found,
    and each `step` ends with `_advance()`.

    Attributes:
        step_index: place in the run; None before the first call of a run.
        begin_index: where the run starts; None for "look the first timestep up".
    """

    def _adopt(self, schedule: Schedule) -> None:
        self.step_index: int | None = None
        self.begin_index: int | None = None
        super()._adopt(schedule)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say at which index the run starts, before its first call; `set_timesteps` forgets it."""
        self.begin_index = begin_index

    def index_for_timestep(self, timestep: float) -> int:
        """The index of a timestep.

        Where a timestep stands twice it is the second, so that a run that starts in the middle skips no sigma.

        Raises:
            InputError: the timestep is not in the schedule.
        """
        found = np.flatnonzero(self.timesteps == timestep)
        if len(found) == 0:
            raise InputError(
                f"{type(self).__name__}: timestep {timestep} is not in the schedule, expected one of `timesteps`."
            )
        return int(found[1] if len(found) > 1 else found[0])

    def _index(self, timestep: float | None) -> int:
        """The current index; the first call of a run finds it.

        Raises:
            InputError: the run is over, or its first timestep is not in the schedule.
        """
        if self.step_index is None:
            start = self.begin_index
            self.step_index = start if start is not None else self.index_for_timestep(self._named(timestep))
        if self.step_index >= len(self.timesteps):
            raise InputError(
                f"{type(self).__name__}: the run of {len(self.timesteps)} steps is over, plan another one."
            )
        return self.step_index

    def _named(self, timestep: float | None) -> float:
        if timestep is None:
            raise InputError(f"{type(self).__name__}: the first call of a run needs its timestep, got None.")
        return timestep

    def _advance(self) -> None:
        assert self.step_index is not None
        self.step_index += 1

    def _refuse_integer(self, timestep: float) -> None:
        """Refuse an index given for a timestep, in schedulers whose timesteps are fractional.

        Raises:
            InputError: as diffusers.
        """
        if isinstance(timestep, int | np.integer):
            raise InputError(
                f"{type(self).__name__}: timestep is the integer {timestep}, expected one of the scheduler's "
                "`timesteps` (float32), not an index into them."
            )

    def _indices(self, timesteps: Sequence[float] | NDArray[Any]) -> list[int]:
        """The index of each image's noise level for `add_noise`."""
        wanted = np.asarray(timesteps).reshape(-1)
        if self.begin_index is None:
            return [self.index_for_timestep(timestep) for timestep in wanted]
        # set by a pipeline: inpainting adds noise during the run, image to image before it
        index = self.step_index if self.step_index is not None else self.begin_index
        return [index] * len(wanted)


class IndexedScheduler(CountedScheduler[C]):
    """A scheduler that walks a list of noise levels: Euler, DPM-Solver, flow matching.

    Attributes:
        sigmas: float32, noise levels, descending, one more than there are timesteps.
    """

    sigmas: NDArray[np.float32]

    def _adopt(self, schedule: Schedule) -> None:
        assert schedule.sigmas is not None
        # Python floats, so that a coefficient never widens a float32 sample
        self._sigma: list[float] = schedule.sigmas.tolist()
        super()._adopt(schedule)

    def add_noise(
        self, original_samples: Float32Array, noise: Float32Array, timesteps: Sequence[float] | NDArray[Any]
    ) -> Float32Array:
        """The sample at given timesteps: x_0 + sigma noise.

        Args:
            original_samples: x_0, float32, (B, ...).
            noise: float32, same shape.
            timesteps: (B,) or (1,), members of `timesteps`.
        """
        sigma = per_image(self.sigmas[self._indices(timesteps)], original_samples.ndim)
        return original_samples + noise * sigma
