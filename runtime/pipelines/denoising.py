"""The denoising loop: one generator that every pipeline drives, so previews and cancelling need no hook."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import Generator
from diffoundry.runtime.schedulers import Scheduler

__all__ = ["AfterStep", "Denoiser", "Step", "denoise", "set_timesteps"]

FloatArray = npt.NDArray[np.float32]

Denoiser = Callable[[FloatArray, FloatArray, int], FloatArray]
"""(scaled latents (B, C, h, w), timestep (1,), its place in the run from 0) -> guided model output (B, C, h, w)."""


AfterStep = Callable[[Any, FloatArray], FloatArray]
"""(the timestep that follows, or None after the last; a step's latents) -> the latents that go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One finished step of a denoising loop.

    Attributes:
        index: 0 for the first.
        total: How many there are; some schedulers make more than `num_inference_steps`.
        timestep: What the scheduler called it.
        latents: float32, (B, C, height/8, width/8), in the scheduler's scale.
    """

    index: int
    total: int
    timestep: float
    latents: FloatArray


def denoise(
    scheduler: Scheduler[Any],
    denoiser: Denoiser,
    latents: FloatArray,
    generator: Generator | Sequence[Generator],
    eta: float = 0.0,
    *,
    timesteps: npt.NDArray[Any],
    after_step: AfterStep | None = None,
) -> Iterator[Step]:
    """Run the loop, yielding after every step; a caller that stops iterating has cancelled.

    diffusers: section "Denoising loop" of `StableDiffusionPipeline.__call__`.

    Args:
        scheduler: With its timesteps set; this loop alone uses it.
        denoiser: The model, guidance included.
        latents: Start, float32 (B, C, h, w), already in units of `init_noise_sigma`.
        generator: Noise for stochastic schedulers.
        eta: DDIM's eta; 0 unless the scheduler has one.
        timesteps: Those of the scheduler that are run, in order.
        after_step: Changes the latents of a step before they go on, or None.

    Raises:
        InputError: At once, before the first step: `eta` is given to a scheduler without it, or the scheduler's `step`
            needs more than a denoising loop has.
    """
    return _steps(scheduler, denoiser, latents, _step_arguments(scheduler, generator, eta), timesteps, after_step)


def _steps(
    scheduler: Scheduler[Any],
    denoiser: Denoiser,
    latents: FloatArray,
    extra: dict[str, Any],
    timesteps: npt.NDArray[Any],
    after_step: AfterStep | None,
) -> Iterator[Step]:
    total = len(timesteps)
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        output = denoiser(scaled, np.asarray([timestep], dtype=np.float32), index)
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
        if after_step is not None:
            latents = after_step(timesteps[index + 1] if index + 1 < total else None, latents)
        yield Step(index=index, total=total, timestep=float(timestep), latents=latents)


def set_timesteps(
    scheduler: Scheduler[Any], steps: int, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None
) -> int:
    """Give the scheduler a number of steps, or the caller's own timesteps or sigmas in its place.

    diffusers: `retrieve_timesteps`.

    Returns:
        How many steps the caller asked for; the scheduler may make more of them.

    Raises:
        InputError: Both lists are given, or the scheduler takes no such list.
    """
    if timesteps is not None and sigmas is not None:
        raise InputError("timesteps and sigmas: got both, expected at most one of them")
    own_schedule = timesteps is not None or sigmas is not None
    scheduler.set_timesteps(None if own_schedule else steps, timesteps=timesteps, sigmas=sigmas)
    return len(scheduler.timesteps) if own_schedule else steps


def _step_arguments(scheduler: Scheduler[Any], generator: object, eta: float) -> dict[str, Any]:
    """Which of generator and eta this scheduler's `step` knows; diffusers: `prepare_extra_step_kwargs`."""
    known = inspect.signature(scheduler.step).parameters
    needed = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    if needed != ["model_output", "timestep", "sample"]:
        raise InputError(
            f"scheduler: got {type(scheduler).__name__}, expected one whose step takes model_output, "
            "timestep and sample; it samples for another kind of pipeline"
        )
    if eta and "eta" not in known:
        raise InputError(f"eta: got {eta}, but {type(scheduler).__name__} has no eta; leave it out or choose DDIM")
    candidates = {"generator": generator, "eta": eta}
    return {name: value for name, value in candidates.items() if name in known}
