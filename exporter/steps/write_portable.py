"""Writes the portable graph of one component, starting from its weights."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.passes import optimize
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.exporter.steps.graph_names import SIZES, name_outputs
from diffoundry.exporter.steps.trace import trace
from diffoundry.exporter.steps.weight_tables import save_tables
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.specs import DimSpec

__all__ = ["write_portable"]


def write_portable(
    *,
    checkpoint: Mapping[str, Any],
    component: str,
    opset: int,
    dims: Mapping[str, DimSpec],
    folder: str,
    phase: Callable[[str], AbstractContextManager[None]],
    progress: Callable[[str], None],  # noqa: ARG001  # every step takes it; these phases are short
) -> tuple[str, ...]:
    """Load, trace, transform and save a component in fp32.

    Args:
        checkpoint: Result of `Checkpoint.describe`.
        component: Its name.
        opset: Version of ONNX's operators.
        dims: As in the recipe.
        folder: The bundle's folder.
        phase: Wraps each phase.
        progress: Not called.

    Returns:
        The files of the graph, relative to the bundle.

    Raises:
        CheckpointError: Weights are missing or do not fit.
    """
    opened = Checkpoint.reopen(checkpoint)
    declared = opened.component(component)
    with phase("load"):
        module = opened.load(component, deferred=True)
    with phase("trace"):
        fixed = {dim: spec.fixed for dim, spec in dims.items() if spec.fixed is not None}
        graph = trace(module, declared, opset=opset, fixed=fixed)
    with phase("passes"):
        graph = optimize(graph)
        name_outputs(graph, declared, fixed)
        graph.metadata_props[SIZES] = json.dumps({name: to_json(dim) for name, dim in dims.items()}, sort_keys=True)
    with phase("save"):
        files = (
            *save_graph(graph, Path(folder) / component),
            *save_tables(module, declared.tables, Path(folder) / component),
        )
    return tuple(f"{component}/{file}" for file in files)
