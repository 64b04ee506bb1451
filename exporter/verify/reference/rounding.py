"""Measures how far PyTorch's own rounding moves latents: its run in fp32 against one with its networks in float64."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.reference.networks import network
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.verify.progress import VerifyProgress
from diffoundry.exporter.verify.reference.pipeline_trace import Trace, generate_reference
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.engines.available_memory import available_memory
from diffoundry.runtime.models.roles import CONTROLNET, DENOISER, PRIOR, UPSCALER

__all__ = ["RoundingYardstick"]

_COPIES = 4
"""Memory for a network and its copy in float64, over that of its weights, with room for what it computes."""


class RoundingYardstick:
    """Errors that a trajectory makes of the rounding of its networks.

    A random network, or a schedule with few steps, can multiply a last bit by thousands. Then no two implementations
    agree, however exact they are, and PyTorch in fp32 is as far from the true latents as a good engine is.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Settings, progress: VerifyProgress) -> None:
        """Nothing is loaded yet.

        Args:
            checkpoint: As in `ask_pytorch`.
            settings: Steps, guidance and size of the traces.
            progress: Receives the progress.
        """
        self._checkpoint, self._settings, self._progress = checkpoint, settings, progress
        self._known: dict[str, tuple[float, ...] | None] = {}

    def measure(self, trace: Trace) -> tuple[float, ...] | None:
        """Return the distance of a trace from its exact run, up to each step; None where memory is short.

        The exact run has the networks of every step in float64; noise, scheduler and the rest are the same. Distances
        are those of `StepDistance.relative_max`.

        Args:
            trace: Record of diffusers' run in fp32.
        """
        if trace.name not in self._known:
            self._known[trace.name] = self._measure(trace)
        return self._known[trace.name]

    def _measure(self, trace: Trace) -> tuple[float, ...] | None:
        name = f"PyTorch in float64: {trace.name}"
        self._progress.update(name, 0, 1)
        pipeline = reference_pipeline(self._checkpoint, torch.float32)
        pipeline.safety_checker = None
        roles = (PRIOR, DENOISER, UPSCALER, CONTROLNET)
        modules = [network(pipeline, one.source) for role in roles for one in self._checkpoint.with_role(role)]
        needed = _COPIES * sum(weight.nbytes for module in modules for weight in module.parameters())
        available = available_memory()
        if available is not None and needed > available:
            return None
        with _exact(modules):
            on_step = partial(self._progress.update, name)
            exact = generate_reference(pipeline, trace.prompt, trace.seed, self._settings, on_step)
        distances = [_distance(*pair) for pair in zip(trace.latents, exact.latents, strict=True)]
        return tuple(float(value) for value in np.maximum.accumulate(distances))


@contextmanager
def _exact(modules: Sequence[Any]) -> Iterator[None]:
    """Compute the outputs of modules in float64, and round them to float32, while the context lasts.

    Their weights stay float32: pipelines draw noise in the dtype of a network.
    """
    for module in modules:
        module.forward = _in_float64(copy.deepcopy(module).double(), module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _in_float64(module: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _pytree.tree_map(partial(_cast, dtype=torch.float64), (args, kwargs))
        return _pytree.tree_map(partial(_cast, dtype=torch.float32), module(*args, **kwargs))

    return run


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value


def _distance(latents: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> float:
    """Return the largest error over the RMS of the latents."""
    with np.errstate(all="ignore"):
        error = np.abs(latents - exact.astype(np.float64)).max()
        return float(error / np.sqrt(np.mean(np.square(latents, dtype=np.float64))))
