"""Cuts a scheduler's timesteps at either end, and adds the noise of a timestep."""

from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.schedulers import Scheduler

__all__ = ["add_noise", "check_strength", "cut_end", "start_at_index", "start_timesteps"]

Timesteps = npt.NDArray[Any]


def check_strength(strength: float) -> None:
    """Refuse a strength out of range.

    Raises:
        InputError: Not above 0 and at most 1.
    """
    if not isinstance(strength, int | float) or not 0 < strength <= 1:
        raise InputError(f"strength: got {strength!r}, expected a number above 0 and at most 1")


def start_at_index(scheduler: Scheduler[Any], index: int) -> Timesteps:
    """Return the timesteps from an index on; schedulers with a begin index are set to it."""
    set_begin_index = getattr(scheduler, "set_begin_index", None)
    if set_begin_index is not None:
        set_begin_index(index)
    timesteps: Timesteps = scheduler.model_timesteps[index:]
    return timesteps


def start_timesteps(
    scheduler: Scheduler[Any], steps: int, strength: float, fraction: float | None, *, flow: bool = False
) -> Timesteps:
    """Return the timesteps to run, after setting the scheduler's begin index.

    Args:
        scheduler: With its timesteps set.
        steps: Number of steps as the caller counts them.
        strength: As `ImageToImage.strength`.
        fraction: As `ImageToImage.denoising_start`, instead of `strength`; None for none.
        flow: True for the pipelines of flow matching models, which round the number of steps up.

    Raises:
        InputError: None is left.
    """
    if fraction is not None:
        return _at_fraction(scheduler, fraction)
    return _at_strength(scheduler, steps, strength, flow=flow)


def _at_strength(scheduler: Scheduler[Any], steps: int, strength: float, *, flow: bool) -> Timesteps:
    """Return the timesteps that are left for a strength: 1 runs all of them.

    diffusers: `StableDiffusionImg2ImgPipeline.get_timesteps`, and that of `StableDiffusion3Img2ImgPipeline` for `flow`.

    Raises:
        InputError: None is left.
    """
    skipped = int(max(steps - min(steps * strength, steps), 0)) if flow else max(steps - int(steps * strength), 0)
    timesteps = start_at_index(scheduler, skipped * scheduler.order)
    if not len(timesteps):
        raise InputError(
            f"strength: got {strength} of {steps} steps, which leaves none; expected at least {1 / steps:.3g}, "
            f"or more steps"
        )
    return timesteps


def _at_fraction(scheduler: Scheduler[Any], fraction: float) -> Timesteps:
    """Return the timesteps that are left after a fraction of the training schedule.

    diffusers: `StableDiffusionXLImg2ImgPipeline.get_timesteps`, `denoising_start`.

    Raises:
        InputError: None is left.
    """
    count = int((scheduler.model_timesteps < _cutoff(scheduler, fraction)).sum())
    if scheduler.order == 2 and count % 2 == 0:
        count += 1  # such a schedule has every timestep twice but the first, and a step is not cut in two
    if not count:
        raise InputError(f"denoising_start: got {fraction}, which leaves no step; expected less, or more steps")
    return start_at_index(scheduler, len(scheduler.model_timesteps) - count)


def cut_end(scheduler: Scheduler[Any], timesteps: Timesteps, fraction: float) -> Timesteps:
    """Return the timesteps of a run that ends after a fraction of the training schedule.

    diffusers: `StableDiffusionXLPipeline.__call__`, `denoising_end`.

    Raises:
        InputError: None is left.
    """
    kept = timesteps[: int(np.sum(timesteps >= _cutoff(scheduler, fraction)))]
    if not len(kept):
        raise InputError(f"denoising_end: got {fraction}, which leaves no step; expected more, or more steps")
    return kept


def _cutoff(scheduler: Scheduler[Any], fraction: float) -> int:
    trained: int | None = scheduler.config.get("num_train_timesteps")
    if trained is None:
        raise InputError(
            f"denoising_start and denoising_end: {type(scheduler).__name__} has no training schedule to take a part "
            f"of; leave them out, or choose another scheduler"
        )
    return round(trained - fraction * trained)


def add_noise(scheduler: Scheduler[Any], latents: FloatArray, noise: FloatArray, timestep: Any) -> FloatArray:
    """Return latents as they are at a timestep; diffusers: `scheduler.add_noise`.

    Raises:
        InputError: The scheduler cannot.
    """
    return scheduler.add_noise(latents, noise, np.repeat(timestep, len(latents)))
