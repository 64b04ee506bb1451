"""Lowers a network as the parts that its graph is cut into."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from diffoundry.exporter.passes.free_times import free_times
from diffoundry.exporter.passes.graph_parts import GraphPart
from diffoundry.exporter.passes.partition import partition as cut_by_inputs
from diffoundry.exporter.passes.split import split as cut_around_body
from diffoundry.runtime.bundle.specs import AdapterSpec, EnginePart, EngineSpec, IdleSpec, TensorSpec
from diffoundry.runtime.engines.part_names import PRELUDE, TIMES
from diffoundry.runtime.models.roles import CONTROLNET, DENOISER, PRIOR
from diffoundry.targets.base import Lowering, Target

__all__ = ["lower_parts"]

_IN_EVERY_STEP = (DENOISER, PRIOR, CONTROLNET)
"""Roles of the networks that a loop calls in every step."""


def lower_parts(target: Target, work: Lowering, *, partition: bool, split: bool) -> EngineSpec:
    """Lower a component in parts, or whole where nothing of it is worth a part.

    Args:
        target: The target.
        work: The component, with its whole graph.
        partition: As in the recipe.
        split: As in the recipe.

    Raises:
        EngineError: The target does not support this graph; the message lists the reasons.
        InputError: `split` is True, and the network is a denoiser without a place for the cut.
    """
    parts = _cut(work, partition=partition, split=split)
    if not parts:
        return target.lower(work)
    lowered = [target.lower(replace(work, graph=_save(part, work.graph, target), part=part.name)) for part in parts]
    made = {tensor.name for spec in lowered for tensor in spec.outputs}
    taken = {tensor.name: tensor for spec in lowered for tensor in spec.inputs if tensor.name not in made}
    adapters = [spec.adapters for spec in lowered if spec.adapters is not None]
    last = lowered[-1]
    return replace(
        last,
        files=_joined(spec.files for spec in lowered),
        inputs=_in_order(work.graph, taken),
        pending=next((spec.pending for spec in lowered if spec.pending is not None), None),
        adapters=_together(adapters) if adapters else None,
        parts=tuple(_entry(part, spec) for part, spec in zip(parts, lowered, strict=True)),
        idle=_idle(lowered),
    )


def _cut(work: Lowering, *, partition: bool, split: bool) -> tuple[GraphPart, ...]:
    """Cut a graph into the parts that the recipe names; none for one graph."""
    partition = partition and work.role in _IN_EVERY_STEP
    split = split and work.role == DENOISER
    if not (partition or split):
        return ()
    whole = ir.load(work.graph)
    parts = cut_by_inputs(whole) if partition else ()
    if not split:
        return parts
    return (*parts[:-1], *cut_around_body(parts[-1].model if parts else whole, work.component))


def _save(part: GraphPart, whole: Path, target: Target) -> Path:
    """Write the graph of a part beside the whole one, whose data file holds its weights.

    Targets share the file, but for a prelude of many timesteps, which some of them do not take.
    """
    frees = target.frees_times and part.name == PRELUDE and free_times(part)
    path = whole.with_name(f"{whole.stem}.{part.name}{'.timesteps' * frees}.onnx")
    beside = whole.with_name(f".{path.name}")
    ir.save(part.model, beside)
    os.replace(beside, path)
    return path


def _in_order(graph: Path, taken: dict[str, TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the inputs in the order of the whole graph, with one timestep."""
    names = [str(value.name) for value in ir.load(graph).graph.inputs]
    found = [taken[name] for name in names if name in taken]
    return tuple(replace(one, shape=(1,)) if one.shape == (TIMES,) else one for one in found)


def _entry(part: GraphPart, spec: EngineSpec) -> EnginePart:
    names = {tensor.name for tensor in spec.inputs}
    return EnginePart(
        name=part.name,
        files=spec.files,
        inputs=spec.inputs,
        outputs=spec.outputs,
        shape_inputs=tuple(name for name in part.shape_inputs if name in names),
        weights=part.weight_bytes,
        options=spec.options,
        metadata=spec.metadata,
        adapters=spec.adapters,
        idle=spec.idle,
        residuals=part.residuals,
    )


def _idle(lowered: Sequence[EngineSpec]) -> IdleSpec | None:
    """Describe the inputs that only parts read which do without them."""
    found = [spec.idle for spec in lowered if spec.idle is not None]
    needed = {t.name for spec in lowered for t in spec.without_idle_inputs.inputs}
    names = tuple(dict.fromkeys(name for idle in found for name in idle.inputs))
    if not names or not needed.isdisjoint(names):
        return None
    return IdleSpec(inputs=names, files=_joined(idle.files for idle in found))


def _together(adapters: Sequence[AdapterSpec]) -> AdapterSpec:
    """Describe the adapters of all parts; the table of token embeddings belongs to no denoiser."""
    layers = {name: shape for spec in adapters for name, shape in spec.layers.items()}
    return AdapterSpec(files=_joined(spec.files for spec in adapters), layers=layers)


def _joined(files: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in files for name in some))
