"""One component, from weights to its portable graph."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.jobs.job import PortableJob
from diffoundry.exporter.passes import optimize
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.exporter.steps.graph_names import name_outputs
from diffoundry.exporter.steps.trace import trace

__all__ = ["write_portable"]


def write_portable(job: PortableJob, phase: Callable[[str], AbstractContextManager[None]]) -> tuple[str, ...]:
    """Load, trace, transform and save in fp32; the files of the graph, relative to the bundle.

    Raises:
        CheckpointError: Weights are missing or do not fit.
    """
    opened = Checkpoint.reopen(job.checkpoint)
    component = opened.component(job.component)
    with phase("load"):
        module = opened.load(job.component)
    with phase("trace"):
        fixed = {dim: spec.fixed for dim, spec in job.dims.items() if spec.fixed is not None}
        graph = trace(module, component, opset=job.opset, fixed=fixed)
    with phase("passes"):
        graph = optimize(graph)
        name_outputs(graph, component, fixed)
    with phase("save"):
        files = save_graph(graph, Path(job.folder) / job.component)
    return tuple(f"{job.component}/{file}" for file in files)
