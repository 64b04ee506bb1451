"""Timesteps as networks take them, told to the memory of a run: it computes ahead for those that follow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.engines.run_memory import current_memory

__all__ = ["announced", "time_feed"]


def announced(timesteps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the timesteps of a loop, which the memory of the run expects from now on."""
    memory = current_memory()
    if memory is not None:
        memory.schedule = np.asarray(timesteps)
    return timesteps


def time_feed(timestep: float, convert: "Callable[[Array], Array] | None" = None, dtype: Any = np.float32) -> Array:
    """Return a timestep of the scheduler as an input of a network, (1,).

    Args:
        timestep: As the scheduler counts.
        convert: Timesteps (N,) as the scheduler counts -> as the network counts; None where both count alike.
        dtype: Of the numbers that `convert` takes.
    """

    def feed(timesteps: Any) -> Array:
        numbers: Array = np.asarray(timesteps, dtype)
        return numbers if convert is None else convert(numbers)

    memory = current_memory()
    if memory is not None:
        memory.convert = feed
    return feed([timestep])
