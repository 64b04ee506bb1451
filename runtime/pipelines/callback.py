"""`callback_on_step_end`: the caller looks at an image after every step, and may change it."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError

__all__ = ["StepEnd", "make_step_end"]

FloatArray = npt.NDArray[np.float32]

StepEnd = Callable[[int, float, FloatArray], FloatArray]
"""(index of a step, its timestep, its latents) -> the latents that go on."""

_FEEDS = {"prompt_embeds": "encoder_hidden_states", "add_text_embeds": "text_embeds", "add_time_ids": "time_ids"}
"""diffusers' names for inputs of the denoiser."""


def make_step_end(
    callback: Callable[..., Any] | None, names: Sequence[str], pipeline: object, feeds: MutableMapping[str, FloatArray]
) -> StepEnd | None:
    """What the denoising loop calls after a step, or None without a callback.

    diffusers: `callback_on_step_end` and `callback_on_step_end_tensor_inputs` of `StableDiffusionPipeline.__call__`.

    Args:
        callback: (pipeline, index, timestep, tensors by name) -> those of them that it changes, by name.
        names: What it is given: "latents", and of `_FEEDS` what this denoiser is fed, as it is fed: the rows of the
            negative prompts first where it is guided.
        pipeline: Handed to the callback.
        feeds: Of the denoiser; what the callback gives back is put here.

    Raises:
        InputError: No function, or a name that there is not.
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
        changed = _checked(callback(pipeline, index, timestep, dict(tensors)), tensors)
        for name, values in changed.items():
            if name != "latents":
                feeds[_FEEDS[name]] = values
        return changed.get("latents", latents)

    return step_end


def _checked(given: object, tensors: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """What a callback gave back.

    Raises:
        InputError: Something else than tensors that it was given, in their shape.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"callback_on_step_end: it returned {type(given).__name__}, expected a dict; return callback_kwargs, or an "
            f"empty one to change nothing"
        )
    for name, values in given.items():
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
    return {name: values.astype(np.float32, copy=False) for name, values in given.items()}
