"""Calls a diffusers pipeline, and reports the latents after every step."""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from diffusers.models import controlnets

from diffoundry.runtime.pipelines.controlnet import CONTROL_SEED

__all__ = ["call_pipeline", "seeded_generator", "shifted_decoding", "watched"]


def call_pipeline(
    pipeline: Any,
    prompt: str,
    on_step: Callable[[int, Any, torch.Tensor], None],
    *,
    watch: bool = False,
    **arguments: Any,
) -> Any:
    """Generate with a diffusers pipeline.

    Args:
        pipeline: A pipeline of any of our families.
        prompt: The prompt; ignored by a pipeline without text, and where `arguments` have its embeddings.
        on_step: Called after every step with (index, timestep, latents).
        watch: True if a step is a step of any of its schedulers, whatever the pipeline does with the result; False if
            the pipeline's own callback decides, where it has one.
        arguments: Arguments of the call. A None argument that the pipeline lacks is skipped.
    """
    taken = inspect.signature(pipeline.__call__).parameters
    arguments = {
        name: value for name, value in arguments.items() if name in taken or (value is not None and name not in _SPARED)
    }
    if "prompt" in taken:
        arguments["prompt"] = prompt if arguments.get("prompt_embeds") is None else None
    # ZImagePipeline writes its chats into the lists of the caller.
    arguments = {name: list(value) if type(value) is list else value for name, value in arguments.items()}
    if type(pipeline).__name__ in _DECODE_UNSHIFTED:
        with shifted_decoding(pipeline):
            return _call(pipeline, on_step, taken, arguments, watch=watch)
    return _call(pipeline, on_step, taken, arguments, watch=watch)


def _call(
    pipeline: Any,
    on_step: Callable[[int, Any, torch.Tensor], None],
    taken: Mapping[str, inspect.Parameter],
    arguments: dict[str, Any],
    *,
    watch: bool,
) -> Any:
    if not watch and type(pipeline).__name__ in _OLD_CALLBACKS:
        return pipeline(callback=on_step, **arguments)
    if watch or "callback_on_step_end" not in taken:
        halves = type(pipeline).__name__ in _STEPS_BOTH_HALVES
        halves = halves and arguments.get("guidance_scale", taken["guidance_scale"].default) > 1
        with watched(pipeline, on_step, halves=halves):
            return pipeline(**arguments)

    def forward_step(_pipeline: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(index, timestep, values["latents"])
        return {}

    return pipeline(callback_on_step_end=forward_step, **arguments)


_SPARED = ("generator", "output_type")
"""Arguments that a class without noise lacks."""


_OLD_CALLBACKS = ("IFInpaintingPipeline", "IFInpaintingSuperResolutionPipeline")
"""Classes that change the sample after a step, and whose old `callback` sees every step."""


_STEPS_BOTH_HALVES = ("DiTPipeline",)
"""Classes whose scheduler steps both halves of guidance, of which the first goes on."""


_DECODE_UNSHIFTED = ("StableDiffusion3InpaintPipeline",)
"""Classes that decode without the VAE's `shift_factor`, which they encode with: huggingface/diffusers#14671."""


@contextmanager
def shifted_decoding(pipeline: Any) -> Iterator[None]:
    """Decode with the VAE's `shift_factor`, in versions of diffusers whose pipeline forgets it."""
    if "shift_factor" in inspect.getsource(type(pipeline).__call__):
        yield
        return
    decode, shift = pipeline.vae.decode, pipeline.vae.config.shift_factor or 0.0
    pipeline.vae.decode = lambda latents, *args, **options: decode(latents + shift, *args, **options)
    try:
        yield
    finally:
        del pipeline.vae.decode


@contextmanager
def watched(
    pipeline: Any, on_step: Callable[[int, Any, torch.Tensor], None], *, halves: bool = False
) -> Iterator[None]:
    """Call `on_step` at every step of every scheduler, with the first half of the rows if `halves`."""
    count = itertools.count()
    schedulers = [part for name, part in pipeline.components.items() if name.endswith("scheduler")]
    methods = [(scheduler, name) for scheduler in schedulers for name in _STEPS if hasattr(scheduler, name)]
    for scheduler, name in methods:
        setattr(scheduler, name, _watched_step(getattr(scheduler, name), count, on_step, halves=halves))
    try:
        yield
    finally:
        for scheduler, name in methods:
            delattr(scheduler, name)


_STEPS = ("step", "step_correct", "step_pred")
"""Methods of diffusers' schedulers that make a step."""


def _watched_step(
    step: Callable[..., Any], count: Iterator[int], on_step: Callable[[int, Any, torch.Tensor], None], *, halves: bool
) -> Callable[..., Any]:
    """Return a scheduler's method that reports the sample that it returns."""

    @functools.wraps(step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        given = step(*args, **kwargs)
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        rows = given[0][: len(given[0]) // 2] if halves else given[0]
        # A correction has the sample as its second argument, and no timestep.
        on_step(next(count), 0.0 if torch.is_tensor(timestep) and timestep.ndim else timestep, rows)
        return given

    return watched


@contextmanager
def seeded_generator(pipeline: Any, seed: int) -> Iterator[torch.Generator]:
    """Yield the generator of a call with which diffusers draws what a bundle draws.

    It is torch's global one, whose state is restored: some pipelines pass none to their scheduler, such as DiTPipeline.
    But some pipelines draw latents of control images with the global one, and a bundle with one of its own.
    """
    with torch.random.fork_rng(devices=[]):
        generator = torch.manual_seed(seed)
        if _draws_apart(getattr(pipeline, "controlnet", None)):
            generator = torch.Generator().manual_seed(seed)
            torch.manual_seed(CONTROL_SEED)
        yield generator


_DRAW_APART = (
    diffusers.SD3ControlNetModel,
    controlnets.SD3MultiControlNetModel,
    diffusers.HunyuanDiT2DControlNetModel,
    controlnets.HunyuanDiT2DMultiControlNetModel,
)
"""ControlNets whose pipelines draw latents of control images without the call's generator."""


def _draws_apart(nets: Any) -> bool:
    """Return whether these ControlNets are of `_DRAW_APART`, or of Qwen-Image with a mask: see `ControlNetModel`."""
    if isinstance(nets, diffusers.QwenImageControlNetModel):
        return bool(nets.config.extra_condition_channels)
    return isinstance(nets, _DRAW_APART)
