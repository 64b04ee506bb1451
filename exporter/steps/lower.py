"""One engine, from a component's portable graph: brought into the target's form, then lowered. Needs no PyTorch."""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import onnx_ir as ir

from diffoundry.exporter.jobs.job import EngineJob
from diffoundry.exporter.steps.convert_precision import make_graph
from diffoundry.exporter.steps.graph_files import GRAPH_NAME, save_graph
from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.base import Lowering, PrecisionFormat

__all__ = ["write_engine"]


def write_engine(
    job: EngineJob,
    phase: Callable[[str], AbstractContextManager[None]],
    tell: Callable[[str], None] = lambda _words: None,
) -> EngineSpec:
    """Bring the portable graph into the form that the target wants, and lower it.

    Raises:
        EngineError: The target does not take this graph; the message lists the reasons.
        MissingExtraError: The vendor's library is not installed.
    """
    bundle = Path(job.folder)
    target = find_plugin(job.build.target).make_target(job.build.options)
    form = target.form(job.build.precision)
    with phase("convert"):
        graph = _in_form(job, bundle / job.component / GRAPH_NAME, form)
    gc.collect()
    with phase("lower"):
        spec: EngineSpec = target.lower(
            Lowering(
                component=job.component,
                graph=graph,
                bundle=bundle,
                precision=job.build.precision,
                dims=job.dims,
                buckets=job.buckets,
                first=job.first,
                tell=tell,
            )
        )
    _check_files(spec, bundle)
    return spec


def _in_form(job: EngineJob, portable: Path, form: PrecisionFormat) -> Path:
    """The graph in another form, written beside the portable one unless an engine of the bundle has it already."""
    if form == PrecisionFormat():
        return portable
    choice = job.quantization
    path = portable.with_name(f"{portable.stem}.{form.label}.onnx")
    if not path.is_file():
        graph = make_graph(ir.load(portable), form, choice, Path(job.folder), job.component)
        save_graph(graph, portable.parent, path.name)
    return path


def _check_files(spec: EngineSpec, bundle: Path) -> None:
    missing = [name for name in spec.all_files if not (bundle / name).is_file()]
    if missing or not spec.files:
        raise EngineError(
            f"target {spec.target!r}: its engine names {', '.join(missing) or 'no file'}, expected its own files; "
            f"this is a fault of the target, report it to who provides it"
        )
