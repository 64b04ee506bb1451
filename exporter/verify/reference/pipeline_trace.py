"""Runs diffusers' pipeline once and keeps what the bundle is compared with: latents after every step, the image."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffoundry.exporter.reference.pipeline import call_pipeline, control_names, network, reference_arguments
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.models.controlnet import is_residual, residual_name

__all__ = ["Trace", "UnetCall", "generate_reference", "record_controls", "record_unet", "to_numpy"]

FloatArray = NDArray[np.float32]

_CONDITIONS = ("encoder_hidden_states", "timestep_cond", "text_embeds", "time_ids")
"""What the UNets of our families take beside sample and timestep, and residuals."""

_CONTROL_INPUTS = ("sample", "controlnet_cond")
"""What ControlNets take beside timestep and those."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One image as diffusers generates it.

    Attributes:
        prompt: The prompt.
        seed: Seed of `torch.Generator("cpu")`.
        timesteps: The scheduler's timestep of each step.
        latents: After each of them, float32 (1, C, height/8, width/8).
        image: float32 (height, width, 3) in 0..1.
    """

    prompt: str
    seed: int
    timesteps: tuple[float, ...]
    latents: tuple[FloatArray, ...]
    image: FloatArray

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.prompt}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnetCall:
    """What the pipeline fed the UNet at one step, and what came out.

    Attributes:
        sample: float32 (rows, C, height/8, width/8), scaled as the scheduler wants, what a task joins to it included;
            two rows or more an image when guided.
        timestep: The timestep.
        conditions: The other inputs by name: hidden states of the prompts, float32 (rows, 77, D), and what a family
            adds to them, and the residuals of ControlNets.
        output: float32 (rows, channels of the latents, height/8, width/8).
    """

    sample: FloatArray
    timestep: float
    conditions: Mapping[str, FloatArray]
    output: FloatArray


def generate_reference(
    pipeline: Any, prompt: str, seed: int, settings: Settings, tell: Callable[[int, int], None]
) -> Trace:
    """Generate one image with diffusers, on the CPU.

    Args:
        pipeline: diffusers', in fp32.
        prompt: The prompt.
        seed: Seed of torch's CPU generator.
        settings: Steps, guidance, size, and whether the image begins with a drawn one.
        tell: Called with (steps done, steps in all) after every step.
    """
    timesteps: list[float] = []
    latents: list[FloatArray] = []

    def keep(index: int, timestep: Any, values: torch.Tensor) -> None:
        timesteps.append(float(timestep))
        latents.append(to_numpy(values))
        tell(index + 1, getattr(pipeline, "num_timesteps", len(pipeline.scheduler.timesteps)))

    output = call_pipeline(
        pipeline,
        prompt,
        keep,
        **reference_arguments(pipeline, settings.image_arguments()),
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
    )
    image = np.asarray(output.images[0], dtype=np.float32)
    return Trace(prompt=prompt, seed=seed, timesteps=tuple(timesteps), latents=tuple(latents), image=image)


@contextmanager
def record_unet(pipeline: Any) -> Iterator[list[UnetCall]]:
    """Keep every call that the pipeline makes of its UNet while the context lasts."""
    calls: list[UnetCall] = []

    def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        call |= call.pop("added_cond_kwargs", None) or {}
        call |= _residuals(call)
        calls.append(
            UnetCall(
                sample=to_numpy(call["sample"]),
                timestep=float(call["timestep"]),
                conditions={
                    name: to_numpy(call[name])
                    for name in call
                    if (name in _CONDITIONS or is_residual(name)) and call[name] is not None
                },
                output=to_numpy(output[0]),
            )
        )

    handle = pipeline.unet.register_forward_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _residuals(call: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What ControlNets add, by the names of the graph's inputs."""
    down = call.get("down_block_additional_residuals") or ()
    return {residual_name(index): tensor for index, tensor in enumerate(down)}


@contextmanager
def record_controls(pipeline: Any) -> Iterator[dict[str, list[dict[str, FloatArray]]]]:
    """Keep what the pipeline feeds each of its ControlNets while the context lasts: name to one entry a call.

    An entry has the inputs of our graph by name, as far as the ControlNet takes them; scales are not among them.
    """
    seen: dict[str, list[dict[str, FloatArray]]] = {name: [] for name in control_names(pipeline)}

    def keep(name: str, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = dict(zip(("sample", "timestep"), args, strict=False)) | kwargs
        call |= call.pop("added_cond_kwargs", None) or {}
        fed = {key: to_numpy(call[key]) for key in (*_CONTROL_INPUTS, *_CONDITIONS) if call.get(key) is not None}
        timestep = np.asarray([float(call["timestep"])], np.float32)
        seen[name].append({**fed, "timestep": timestep})

    handles = [
        network(pipeline, name).register_forward_pre_hook(partial(keep, name), with_kwargs=True) for name in seen
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def to_numpy(tensor: torch.Tensor) -> FloatArray:
    """A copy as float32, out of the reach of whoever changes the tensor."""
    return np.array(tensor.detach().float().numpy())
