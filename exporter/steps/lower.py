"""Makes one engine from a component's portable graph: converts the precision, then lowers. Needs no PyTorch."""

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from diffoundry.exporter.jobs.job import CUT_WEIGHTS
from diffoundry.exporter.steps.convert_precision import DTYPES, make_graph
from diffoundry.exporter.steps.graph_files import GRAPH_NAME, save_graph
from diffoundry.exporter.steps.lower_parts import lower_parts
from diffoundry.exporter.steps.weight_range import describe_cut, weights_beyond
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import DimSpec, EngineSpec, Variant
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.base import Lowering, PrecisionFormat

__all__ = ["write_engine"]


def write_engine(
    *,
    component: str,
    role: str,
    variant: Variant,
    first: bool,
    dims: Mapping[str, DimSpec],
    buckets: tuple[tuple[int, int], ...],
    quantization: QuantizationChoice | None,
    folder: str,
    phase: Callable[[str], AbstractContextManager[None]],
    progress: Callable[[str], None],
    partition: bool = False,
    split: bool = False,
) -> EngineSpec:
    """Convert the portable graph to the target's format for the precision, and lower it.

    Args:
        component: Name of the component.
        role: Its role, of `runtime.models.roles`.
        variant: Target, precision and the target's options.
        first: As in `Lowering`.
        dims: As in the recipe.
        buckets: As in the recipe.
        quantization: The choice of calibration for this precision, or None.
        folder: The bundle's folder.
        phase: Wraps each phase.
        progress: Called with a text while the target compiles.
        partition: As in the recipe.
        split: As in the recipe.

    Returns:
        The engine's entry of the manifest.

    Raises:
        EngineError: The target does not support this graph; the message lists the reasons.
        InputError: `split` is True, and a denoiser has no place for the cut.
        MissingExtraError: The vendor's library is not installed.
    """
    bundle = Path(folder)
    target = find_plugin(variant.target).make_target(variant.options)
    wanted = target.form(variant.precision)
    with phase("convert"):
        graph = _converted(bundle, component, wanted, quantization)
    with phase("lower"):
        work = Lowering(
            component=component,
            role=role,
            graph=graph,
            bundle=bundle,
            precision=variant.precision,
            dims=dims,
            buckets=buckets,
            first=first,
            progress=progress,
        )
        spec: EngineSpec = lower_parts(target, work, partition=partition, split=split)
    _check_files(spec, bundle)
    return _with_cut_weights(spec, bundle / component / GRAPH_NAME, wanted)


def _with_cut_weights(spec: EngineSpec, portable: Path, wanted: PrecisionFormat) -> EngineSpec:
    """Note the weights that the precision cannot hold in the engine's entry."""
    if wanted.floats == "fp32" or wanted.quantized:
        return spec
    dtype = DTYPES[wanted.floats]
    names = weights_beyond(ir.load(portable), dtype)
    return replace(spec, metadata={**spec.metadata, CUT_WEIGHTS: describe_cut(names, dtype)}) if names else spec


def _converted(bundle: Path, component: str, wanted: PrecisionFormat, quantization: QuantizationChoice | None) -> Path:
    """Write the graph in another format beside the portable one, unless an engine of the bundle has it already."""
    portable = bundle / component / GRAPH_NAME
    if wanted == PrecisionFormat():
        return portable
    path = portable.with_name(f"{portable.stem}.{wanted.label}.onnx")
    if not path.is_file():
        graph = make_graph(ir.load(portable), wanted, quantization, bundle, component)
        save_graph(graph, portable.parent, path.name)
        del graph
        gc.collect()  # its nodes refer to each other, and lowering needs the memory of its weights
    return path


def _check_files(spec: EngineSpec, bundle: Path) -> None:
    missing = [name for name in spec.all_files if not (bundle / name).is_file()]
    if missing or not spec.files:
        raise EngineError(
            f"target {spec.target!r}: its engine names {', '.join(missing) or 'no file'}, expected its own files. "
            f"This is a fault of the target: report it to its provider"
        )
