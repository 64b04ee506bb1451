"""Runs diffusers' pipeline once and keeps what the bundle is compared with: latents after every step, the image."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffoundry.exporter.component import Component
from diffoundry.exporter.reference.pipeline import call_pipeline, network, reference_arguments
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.bundle.specs import TensorSpec

__all__ = ["NetworkCall", "Trace", "generate_reference", "record_calls", "to_numpy"]

FloatArray = NDArray[np.float32]


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
class NetworkCall:
    """What the pipeline fed a network at one step, and what came out.

    Attributes:
        feeds: Inputs of the component's graph by name, those that the pipeline passed: latents as the scheduler wants
            them, hidden states of the prompts, residuals of ControlNets. Two rows or more an image when guided.
        outputs: Outputs of the graph by name. A ControlNet's are scaled as the pipeline asked for.
    """

    feeds: Mapping[str, FloatArray]
    outputs: Mapping[str, FloatArray]

    @property
    def timestep(self) -> float:
        """The scheduler's timestep."""
        return float(self.feeds["timestep"][0])


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
def record_calls(pipeline: Any, components: Sequence[Component]) -> Iterator[dict[str, list[NetworkCall]]]:
    """Keep every call that the pipeline makes of some networks while the context lasts: component to its calls.

    Args:
        pipeline: diffusers'.
        components: Denoisers and ControlNets, which run once a step.
    """
    calls: dict[str, list[NetworkCall]] = {component.name: [] for component in components}

    def keep(component: Component, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        passed = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        found = {
            spec: _argument(passed, component.call.keywords.get(spec.name, spec.name)) for spec in component.inputs
        }
        feeds = {spec.name: _as_fed(tensor, spec) for spec, tensor in found.items() if tensor is not None}
        parts = output if isinstance(output, tuple) else output.to_tuple()
        flat = [tensor for part in parts for tensor in (part if isinstance(part, list | tuple) else [part])]
        names = [spec.name for spec in component.outputs]
        outputs = {name: to_numpy(tensor) for name, tensor in zip(names, flat, strict=True)}
        calls[component.name].append(NetworkCall(feeds=feeds, outputs=outputs))

    handles = [
        network(pipeline, component.source).register_forward_hook(partial(keep, component), with_kwargs=True)
        for component in components
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _argument(passed: Mapping[str, Any], path: str) -> Any:
    """An argument of `forward`, or an entry of one: "added_cond_kwargs.time_ids"."""
    keyword, _, key = path.partition(".")
    value = passed.get(keyword)
    if not key or value is None:
        return value
    return value[int(key)] if key.isdecimal() else value.get(key)


def _as_fed(value: Any, spec: TensorSpec) -> FloatArray:
    """A timestep for each row is one number in our graphs."""
    array = to_numpy(torch.as_tensor(value))
    return array.reshape(-1)[:1] if spec.shape == (1,) else array


def to_numpy(tensor: torch.Tensor) -> FloatArray:
    """A copy as float32, out of the reach of whoever changes the tensor."""
    return np.array(tensor.detach().float().numpy())
