"""Which part of a scheduler's timesteps is run."""

from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import Scheduler

__all__ = ["check_strength", "cut_end", "start_at_index", "start_timesteps"]

Timesteps = npt.NDArray[Any]


def check_strength(strength: float) -> None:
    """Refuse a strength that is none.

    Raises:
        InputError: Not above 0 and at most 1.
    """
    if not isinstance(strength, int | float) or not 0 < strength <= 1:
        raise InputError(f"strength: got {strength!r}, expected a number above 0 and at most 1")


def start_timesteps(scheduler: Scheduler[Any], steps: int, strength: float, fraction: float | None) -> Timesteps:
    """The timesteps to run, with the scheduler told where it begins.

    Args:
        scheduler: With its timesteps set.
        steps: Those that were asked for.
        strength: How much of the image may change.
        fraction: What part of the schedule the image has behind it, in place of `strength`; None for none.

    Raises:
        InputError: None is left.
    """
    return _at_strength(scheduler, steps, strength) if fraction is None else _at_fraction(scheduler, fraction)


def _at_strength(scheduler: Scheduler[Any], steps: int, strength: float) -> Timesteps:
    """The timesteps that are left when an image is changed with a strength: 1 runs all of them.

    diffusers: `StableDiffusionImg2ImgPipeline.get_timesteps`.

    Raises:
        InputError: None is left.
    """
    kept = min(int(steps * strength), steps)
    timesteps = start_at_index(scheduler, max(steps - kept, 0) * scheduler.order)
    if not len(timesteps):
        raise InputError(
            f"strength: got {strength} of {steps} steps, which leaves none; expected at least {1 / steps:.3g}, "
            f"or more steps"
        )
    return timesteps


def _at_fraction(scheduler: Scheduler[Any], fraction: float) -> Timesteps:
    """The timesteps that are left after a fraction of the training schedule.

    diffusers: `StableDiffusionXLImg2ImgPipeline.get_timesteps`, `denoising_start`.

    Raises:
        InputError: None is left.
    """
    count = int((scheduler.timesteps < _cutoff(scheduler, fraction)).sum())
    if scheduler.order == 2 and count % 2 == 0:
        count += 1  # such a schedule has every timestep twice but the first, and a step is not cut in two
    if not count:
        raise InputError(f"denoising_start: got {fraction}, which leaves no step; expected less, or more steps")
    return start_at_index(scheduler, len(scheduler.timesteps) - count)


def start_at_index(scheduler: Scheduler[Any], index: int) -> Timesteps:
    """The timesteps from an index on, the scheduler told of it where it wants to know."""
    tell = getattr(scheduler, "set_begin_index", None)
    if tell is not None:
        tell(index)
    timesteps: Timesteps = scheduler.timesteps[index:]
    return timesteps


def cut_end(scheduler: Scheduler[Any], timesteps: Timesteps, fraction: float | None) -> Timesteps:
    """The timesteps of a run that ends after a fraction of the training schedule; None runs to the end.

    diffusers: `StableDiffusionXLPipeline.__call__`, `denoising_end`.

    Raises:
        InputError: None is left.
    """
    if fraction is None:
        return timesteps
    kept = timesteps[: int(np.sum(timesteps >= _cutoff(scheduler, fraction)))]
    if not len(kept):
        raise InputError(f"denoising_end: got {fraction}, which leaves no step; expected more, or more steps")
    return kept


def _cutoff(scheduler: Scheduler[Any], fraction: float) -> int:
    trained: int = scheduler.config["num_train_timesteps"]
    return round(trained - fraction * trained)
