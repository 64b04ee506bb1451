"""The denoising loop: one generator for every pipeline, so that previews and cancelling need no hook."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy.typing as npt

from diffoundry.runtime.engines.timesteps import announced
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.random import Generator
from diffoundry.runtime.schedulers import Scheduler

__all__ = ["AfterStep", "Predict", "Step", "StepEnd", "StopSignal", "denoise"]

Predict = Callable[[FloatArray, float, int], FloatArray]
"""(scaled latents (B, ...), timestep, index of the step) -> guided model output (B, ...)."""

AfterStep = Callable[[Any, FloatArray], FloatArray]
"""(the timestep that follows, or None after the last; a step's latents) -> the latents that go on."""

StepEnd = Callable[[int, float, FloatArray], FloatArray]
"""(index of a step, its timestep, its latents) -> the latents that go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One finished step of a denoising loop.

    Attributes:
        index: 0 for the first.
        total: Number of steps; some schedulers make more than `num_inference_steps`.
        timestep: As the scheduler counts.
        latents: float32, (B, C, height/8, width/8), in the scheduler's scale.
        stage: Name of the stage; empty where there is one.
        ends_stage: True for the last step of a stage, of pipelines with stages.
        result: Becomes images where that is not `latents`: the sample before the noise of the step was added.
    """

    index: int
    total: int
    timestep: float
    latents: FloatArray = field(repr=False)
    stage: str = field(default="", repr=False)
    ends_stage: bool = field(default=False, repr=False)
    result: FloatArray | None = field(default=None, repr=False)


@dataclass(slots=True, weakref_slot=True, eq=False)
class StopSignal:
    """Ends a loop before its next step. Any thread may set it: `cancelled` drops the run, `interrupted` decodes it."""

    cancelled: bool = False
    interrupted: bool = False


def denoise(
    scheduler: Scheduler[Any],
    predict: Predict,
    latents: FloatArray,
    timesteps: npt.NDArray[Any],
    generator: Generator | Sequence[Generator],
    signal: StopSignal,
    eta: float = 0.0,
    after_step: AfterStep | None = None,
    step_end: StepEnd | None = None,
    scale_input: bool = True,
    ends_denoised: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Iterator[Step]:
    """Run the loop and yield after every step; a caller that stops iterating has cancelled.

    diffusers: section "Denoising loop" of `StableDiffusionPipeline.__call__`.

    Args:
        scheduler: With its timesteps set; no other loop may use it.
        predict: The model, guidance included.
        latents: Start, float32 (B, ...), in the scheduler's scale.
        timesteps: Those of the scheduler's `model_timesteps` that are run, in order.
        generator: Noise for stochastic schedulers.
        signal: Ends the loop early.
        eta: DDIM's eta; schedulers without one ignore it.
        after_step: Changes the latents of a step before they go on, or None.
        step_end: The caller's own function, called after that, or None.
        scale_input: True if the model takes the latents as `scale_model_input` scales them.
        ends_denoised: True if the last step yields the clean sample that it predicts, the second of the scheduler's
            result where there is one, as `LatentConsistencyModelPipeline` decodes it.
        arguments: Further arguments of the scheduler's `step`, the same in every step.
    """
    total = len(timesteps)
    for index, timestep in enumerate(announced(timesteps)):
        if signal.cancelled or signal.interrupted:
            return
        scaled = scheduler.scale_model_input(latents, timestep) if scale_input else latents
        output = predict(scaled, timestep, index)
        result = scheduler.loop_step(output, timestep, latents, generator=generator, eta=eta, **(arguments or {}))
        latents = result.prev_sample
        if after_step is not None:
            latents = after_step(timesteps[index + 1] if index + 1 < total else None, latents)
        if step_end is not None:
            latents = step_end(index, float(timestep), latents)
        if ends_denoised and index + 1 == total and result[1] is not None:
            latents = cast("FloatArray", result[1])
        yield Step(index=index, total=total, timestep=float(timestep), latents=latents)
