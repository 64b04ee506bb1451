"""The base of schedulers whose place in the run is an index."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, per_image
from diffoundry.runtime.schedulers.base import Schedule, Scheduler
from diffoundry.runtime.schedulers.options import SchedulerOptions

__all__ = ["IndexedScheduler"]

C = TypeVar("C", bound=SchedulerOptions)


class IndexedScheduler(Scheduler[C]):
    """A scheduler that walks its timesteps, and its noise levels where it has them, with an index.

    The index starts at `begin_index` when that is set (image to image), else where the first timestep is found.
    Each `step` ends with `_advance()`.

    Attributes:
        step_index: place in the run; None before the first call of a run.
        begin_index: first index of the run; None to look the first timestep up.
    """

    def _adopt(self, schedule: Schedule) -> None:
        self.step_index: int | None = None
        self.begin_index: int | None = None
        # Python floats, so that a coefficient never widens a float32 sample
        self._sigma: list[float] = [] if schedule.sigmas is None else schedule.sigmas.tolist()
        super()._adopt(schedule)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the index at which the run starts, before its first call; `set_timesteps` forgets it."""
        self.begin_index = begin_index

    def index_for_timestep(self, timestep: float) -> int:
        """Find a timestep; of two equal ones the second, so that a run that starts in the middle skips no sigma.

        Raises:
            InputError: the timestep is not in the schedule.
        """
        found = np.flatnonzero(self.timesteps == timestep)
        if len(found) == 0:
            return self._index_of_unknown(timestep)
        return int(found[1] if len(found) > 1 else found[0])

    def _index_of_unknown(self, timestep: float) -> int:
        raise InputError(
            f"{type(self).__name__}: timestep {timestep} is not in the schedule, expected one of `timesteps`."
        )

    def _index(self, timestep: float | None) -> int:
        """Return the current index; the first call of a run finds it.

        Raises:
            InputError: the run is over, or its first timestep is not in the schedule.
        """
        name = type(self).__name__
        if self.step_index is None and self.begin_index is not None:
            self.step_index = self.begin_index
        if self.step_index is None:
            if timestep is None:
                raise InputError(f"{name}: the first call of a run needs its timestep, got None.")
            self.step_index = self.index_for_timestep(timestep)
        if self.step_index >= len(self.timesteps):
            raise InputError(f"{name}: the run of {len(self.timesteps)} steps is over. Call set_timesteps again.")
        return self.step_index

    def _advance(self) -> None:
        assert self.step_index is not None
        self.step_index += 1

    def _refuse_integer(self, timestep: float) -> None:
        """Refuse an index as timestep, as diffusers does, in schedulers whose timesteps are fractional."""
        if isinstance(timestep, int | np.integer):
            raise InputError(
                f"{type(self).__name__}: timestep is the integer {timestep}, expected one of the scheduler's "
                "`timesteps` (float32), not an index into them."
            )

    def add_noise(
        self, original_samples: Float32Array, noise: Float32Array, timesteps: Sequence[float] | NDArray[Any]
    ) -> Float32Array:
        """Compute the sample at given timesteps: x_0 + sigma noise, float32, (B, ...); timesteps are (B,) or (1,)."""
        if self.sigmas is None:
            return super().add_noise(original_samples, noise, timesteps)
        sigma = per_image(self.sigmas[self._indices(timesteps)], original_samples.ndim)
        return original_samples + noise * sigma

    def _indices(self, timesteps: Sequence[float] | NDArray[Any]) -> list[int]:
        """Return the index of each image's noise level for `add_noise`."""
        wanted = np.asarray(timesteps).reshape(-1)
        if self.begin_index is None:
            return [self.index_for_timestep(timestep) for timestep in wanted]
        # set by a pipeline: inpainting adds noise during the run, image to image before it
        index = self.step_index if self.step_index is not None else self.begin_index
        return [index] * len(wanted)
