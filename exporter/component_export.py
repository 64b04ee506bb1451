"""One component, from weights to engine: load, trace, passes, save, lower."""

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoint import Checkpoint
from diffoundry.exporter.graph_files import GRAPH_NAME, save_graph
from diffoundry.exporter.passes import optimize, to_fp16
from diffoundry.exporter.trace import trace
from diffoundry.runtime.plugins import find_plugin
from diffoundry.runtime.specs import ComponentSpec, Recipe

__all__ = ["export_component"]

Phase = Callable[[str], AbstractContextManager[None]]


def export_component(
    checkpoint: Mapping[str, Any], name: str, recipe: Recipe, bundle: Path, phase: Phase
) -> ComponentSpec:
    """Write a component's portable graph, lower it, and describe both.

    Args:
        checkpoint: From `Checkpoint.describe`.
        name: The component; its folder in `bundle` exists.
        recipe: Target, precision, dims and opset.
        bundle: The bundle under construction.
        phase: Wraps each phase, for progress and seconds.

    Raises:
        CheckpointError: Weights are missing or do not fit.
        EngineError: The target does not take this graph; the message lists the reasons.
    """
    folder = bundle / name
    files = _write_portable(checkpoint, name, recipe, folder, phase)
    gc.collect()
    with phase("lower"):
        target = find_plugin(recipe.target).load("target")(**recipe.target_options)
        engine = target.lower(folder / GRAPH_NAME, bundle=bundle, precision=recipe.precision)
    return ComponentSpec(graph=tuple(f"{name}/{file}" for file in files), engines=(engine,))


def _write_portable(
    checkpoint: Mapping[str, Any], name: str, recipe: Recipe, folder: Path, phase: Phase
) -> tuple[str, ...]:
    """Load, trace, transform and save; module and graph are gone when this returns."""
    opened = Checkpoint.reopen(checkpoint)
    component = opened.component(name)
    with phase("load"):
        module = opened.load(name)
    with phase("trace"):
        fixed = {dim: spec.fixed for dim, spec in recipe.dims.items() if spec.fixed is not None}
        graph = trace(module, component, opset=recipe.opset, fixed=fixed)
    with phase("passes"):
        graph = optimize(graph)
        if recipe.precision == "fp16":
            graph = to_fp16(graph)
    with phase("save"):
        return save_graph(graph, folder)
