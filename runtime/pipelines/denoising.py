"""The denoising loop: one generator for every pipeline, so that previews and cancelling need no hook."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.random import Generator
from diffoundry.runtime.schedulers import Scheduler, mu_for

__all__ = ["AfterStep", "Predict", "Step", "StepEnd", "denoise", "make_step_end", "set_timesteps"]

Predict = Callable[[FloatArray, float, int], FloatArray]
"""(scaled latents (B, ...), timestep, index of the step) -> guided model output (B, ...)."""

AfterStep = Callable[[Any, FloatArray], FloatArray]
"""(the timestep that follows, or None after the last; a step's latents) -> the latents that go on."""

StepEnd = Callable[[int, float, FloatArray], FloatArray]
"""(index of a step, its timestep, its latents) -> the latents that go on."""

_FEEDS = {"prompt_embeds": "encoder_hidden_states", "add_text_embeds": "text_embeds", "add_time_ids": "time_ids"}
"""Names of diffusers' callback tensors to inputs of the denoiser."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One finished step of a denoising loop.

    Attributes:
        index: 0 for the first.
        total: Number of steps; some schedulers make more than `num_inference_steps`.
        timestep: As the scheduler counts.
        latents: float32, (B, C, height/8, width/8), in the scheduler's scale.
    """

    index: int
    total: int
    timestep: float
    latents: FloatArray


def denoise(
    scheduler: Scheduler[Any],
    predict: Predict,
    latents: FloatArray,
    timesteps: npt.NDArray[Any],
    *,
    generator: Generator | Sequence[Generator],
    eta: float = 0.0,
    after_step: AfterStep | None = None,
    step_end: StepEnd | None = None,
) -> Iterator[Step]:
    """Run the loop and yield after every step; a caller that stops iterating has cancelled.

    diffusers: section "Denoising loop" of `StableDiffusionPipeline.__call__`.

    Args:
        scheduler: With its timesteps set; no other loop may use it.
        predict: The model, guidance included.
        latents: Start, float32 (B, ...), in units of `init_noise_sigma`.
        timesteps: Those of the scheduler's `model_timesteps` that are run, in order.
        generator: Noise for stochastic schedulers.
        eta: DDIM's eta; schedulers without one ignore it.
        after_step: Changes the latents of a step before they go on, or None.
        step_end: The caller's own function, called after that, or None.
    """
    total = len(timesteps)
    for index, timestep in enumerate(timesteps):
        output = predict(scheduler.scale_model_input(latents, timestep), timestep, index)
        latents = scheduler.loop_step(output, timestep, latents, generator=generator, eta=eta).prev_sample
        if after_step is not None:
            latents = after_step(timesteps[index + 1] if index + 1 < total else None, latents)
        if step_end is not None:
            latents = step_end(index, float(timestep), latents)
        yield Step(index=index, total=total, timestep=float(timestep), latents=latents)


def set_timesteps(
    scheduler: Scheduler[Any],
    steps: int,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    *,
    mu: float | None = None,
    image_tokens: int | None = None,
) -> int:
    """Plan a run by a number of steps, or by the caller's own timesteps or sigmas.

    diffusers: `retrieve_timesteps`, and `calculate_shift` of `StableDiffusion3Pipeline`.

    Args:
        scheduler: Gets the plan.
        steps: Number of steps.
        timesteps: The caller's own.
        sigmas: The caller's own.
        mu: The caller's own exponent of the resolution-dependent shift.
        image_tokens: From which mu follows where the scheduler takes one.

    Returns:
        The number of steps as the caller counts them; the scheduler may make more.

    Raises:
        InputError: Both lists are given, or the scheduler does not take them.
    """
    if timesteps is not None and sigmas is not None:
        raise InputError("timesteps and sigmas: got both, expected at most one of them")
    if mu is None and image_tokens is not None:
        mu = mu_for(scheduler, image_tokens)
    own_schedule = timesteps is not None or sigmas is not None
    scheduler.set_timesteps(None if own_schedule else steps, timesteps=timesteps, sigmas=sigmas, mu=mu)
    return len(scheduler.timesteps) if own_schedule else steps


def make_step_end(
    callback: Callable[..., Any] | None, names: Sequence[str], pipeline: object, feeds: MutableMapping[str, FloatArray]
) -> StepEnd | None:
    """Return the function that the loop calls after each step, or None without a callback.

    diffusers: `callback_on_step_end` and `callback_on_step_end_tensor_inputs` of `StableDiffusionPipeline.__call__`.

    Args:
        callback: (pipeline, index, timestep, tensors by name) -> those of them that it changes, by name.
        names: Tensors that the callback gets: "latents", and of `_FEEDS` those that the denoiser is fed, with the rows
            of the negative prompts first where it is guided.
        pipeline: First argument of the callback.
        feeds: Inputs of the denoiser; changed tensors are stored here.

    Raises:
        InputError: No function, or an unknown name.
    """
    if callback is None:
        return None
    if not callable(callback):
        raise InputError(f"callback_on_step_end: got {type(callback).__name__}, expected a function")
    known = ["latents", *(name for name, feed in _FEEDS.items() if feed in feeds)]
    unknown = [name for name in names if name not in known]
    if unknown or isinstance(names, str):
        raise InputError(
            f"callback_on_step_end_tensor_inputs: got {names if isinstance(names, str) else unknown[0]!r}, expected "
            f"a list of {', '.join(known)}"
        )

    def step_end(index: int, timestep: float, latents: FloatArray) -> FloatArray:
        tensors = {name: latents if name == "latents" else feeds[_FEEDS[name]] for name in names}
        changed = _check_changes(callback(pipeline, index, timestep, dict(tensors)), tensors)
        for name, values in changed.items():
            if name != "latents":
                feeds[_FEEDS[name]] = values
        return changed.get("latents", latents)

    return step_end


def _check_changes(changes: object, tensors: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return a callback's changes as float32.

    Raises:
        InputError: Something else than tensors that it got, in their shape.
    """
    if not isinstance(changes, Mapping):
        raise InputError(
            f"callback_on_step_end: it returned {type(changes).__name__}, expected a dict; return callback_kwargs, or "
            f"an empty one to change nothing"
        )
    for name, values in changes.items():
        if name not in tensors:
            raise InputError(
                f"callback_on_step_end: it returned {name!r}, expected some of {', '.join(tensors)}; name it in "
                f"callback_on_step_end_tensor_inputs"
            )
        found = values.shape if isinstance(values, np.ndarray) and values.dtype.kind == "f" else type(values).__name__
        if found != tensors[name].shape:
            raise InputError(
                f"callback_on_step_end: it returned {name!r} of {found}, expected floats {tensors[name].shape}"
            )
    return {name: values.astype(np.float32, copy=False) for name, values in changes.items()}
