"""`callback_on_step_end`: the caller's function that sees, and may change, the tensors after every step."""

import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.denoising import StepEnd, StopSignal

__all__ = ["current_signal", "make_step_end"]

_RUNNING = threading.local()
"""In `signal` the stop signal of the run whose callback runs in this thread."""


def current_signal() -> StopSignal | None:
    """Return the stop signal of the run whose callback runs in this thread; None outside of callbacks."""
    signal: StopSignal | None = getattr(_RUNNING, "signal", None)
    return signal


def make_step_end(
    callback: Callable[..., Any],
    names: Sequence[str],
    pipeline: object,
    feeds: MutableMapping[str, FloatArray],
    tensors: Mapping[str, str],
    signal: StopSignal,
) -> StepEnd:
    """Return the function that the loop calls after each step.

    diffusers: `callback_on_step_end` and `callback_on_step_end_tensor_inputs` of `StableDiffusionPipeline.__call__`.

    Args:
        callback: (pipeline, index, timestep, tensors by name) -> those of them that it changes, by name.
        names: Tensors that the callback gets: "latents", and of `tensors` those that the denoiser is fed, with the rows
            of the negative prompts first where it is guided.
        pipeline: First argument of the callback.
        feeds: Inputs of the denoiser; changed tensors are stored here.
        tensors: As `Family.callback_tensors`.
        signal: That of the run, which the callback may set.

    Raises:
        InputError: No function, or an unknown name.
    """
    if not callable(callback):
        raise InputError(f"callback_on_step_end: got {type(callback).__name__}, expected a function")
    known = ["latents", *(name for name, feed in tensors.items() if feed in feeds)]
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    unknown = [name for name in names if name not in known] if listed else [names]
    if unknown:
        raise InputError(
            f"callback_on_step_end_tensor_inputs: got {unknown[0]!r}, expected a list of {', '.join(known)}"
        )

    def step_end(index: int, timestep: float, latents: FloatArray) -> FloatArray:
        values = {name: latents if name == "latents" else feeds[tensors[name]] for name in names}
        outer, _RUNNING.signal = current_signal(), signal
        try:
            changes = callback(pipeline, index, timestep, dict(values))
        finally:
            _RUNNING.signal = outer
        changed = _check_changes(changes, values)
        for name, value in changed.items():
            if name != "latents":
                feeds[tensors[name]] = value
        return changed.get("latents", latents)

    return step_end


def _check_changes(changes: object, tensors: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return a callback's changes as float32, those of codes as int64.

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
        kind = tensors[name].dtype.kind
        found = values.shape if isinstance(values, np.ndarray) and values.dtype.kind == kind else type(values).__name__
        if found != tensors[name].shape:
            expected = "floats" if kind == "f" else "whole numbers"
            raise InputError(
                f"callback_on_step_end: it returned {name!r} of {found}, expected {expected} {tensors[name].shape}"
            )
    return {name: values.astype(tensors[name].dtype, copy=False) for name, values in changes.items()}
