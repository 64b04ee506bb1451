"""Lowers a graph for any target in any precision, each activation's range measured on given inputs."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from traced_networks import open_graph

from diffoundry.exporter.component import Component
from diffoundry.exporter.passes.half_precision import HalfPrecision
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.quantize import Quantize
from diffoundry.exporter.steps.convert_precision import DTYPES
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.runtime.bundle.specs import DimSpec, EngineSpec
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.engines.protocol import EngineOptions, run_checked
from diffoundry.targets.base import Lowering

Feeds = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LoweredNetwork:
    """An engine of a component in a folder of its own."""

    bundle: Path
    spec: EngineSpec

    def run(self, feeds: Feeds, engine: Any = None) -> dict[str, np.ndarray]:
        """Run once, by the target's own engine or another class; feeds are cast to the engine's types."""
        opener = engine or find_plugin(self.spec.target).load("engine")
        with opener(self.bundle / self.spec.files[0], self.spec, EngineOptions(device="cpu")) as opened:
            types = {spec.name: spec.dtype for spec in opened.inputs}
            given = {name: array.astype(types[name]) for name, array in feeds.items()}
            return run_checked(opened, given, "network")


def lower(
    graph: ir.Model,
    component: Component,
    bundle: Path,
    target: str,
    precision: str,
    *,
    feeds: Feeds,
    bucket: tuple[int, int] | None = None,
    **options: Any,
) -> LoweredNetwork:
    """Lower a portable graph.

    Args:
        graph: The graph; it stays as it is.
        component: Its component.
        bundle: An empty folder.
        target: Name of the target.
        precision: Any of its precisions; every weight is quantized that can be.
        feeds: Inputs from which the ranges of activations come.
        bucket: Height and width of the image, for engines of one size.
        options: The target's.
    """
    made = find_plugin(target).make_target(options)
    form = made.form(precision)
    model = _copy(graph)
    if form.quantized:
        sites = quantizable(model.graph)
        Quantize(
            nodes=frozenset(site.name for site in sites),
            weights=form.weights,
            activations=form.activations,
            ranges=_ranges(graph, sites, feeds) if form.activations else {},
            block=form.block,
            floats=DTYPES[form.floats],
            outputs=form.outputs,
        )(model)
    if form.floats != "fp32":
        HalfPrecision(dtype=DTYPES[form.floats])(model)
    folder = bundle / component.name
    folder.mkdir(parents=True)
    name = "model.onnx" if form.label == "fp32" else f"model.{form.label}.onnx"
    save_graph(model, folder, name)
    work = Lowering(
        component=component.name,
        role=component.role,
        graph=folder / name,
        bundle=bundle,
        precision=precision,
        dims={"batch": DimSpec(), "height": DimSpec(min=8, multiple_of=8), "width": DimSpec(min=8, multiple_of=8)},
        buckets=() if bucket is None else (bucket,),
    )
    return LoweredNetwork(bundle, made.lower(work))


def _copy(graph: ir.Model) -> ir.Model:
    """A graph that shares nothing; `clone` shares the types of values."""
    return ir.from_proto(ir.to_proto(graph))


def _ranges(graph: ir.Model, sites: Any, feeds: Feeds) -> dict[str, tuple[float, float]]:
    """The smallest and the largest number of each input and output of the sites' nodes."""
    model = _copy(graph)
    values = {value.name: value for node in model.graph for value in node.outputs}
    inputs = {site.activation_value.name for site in sites if site.activation is not None}
    names = sorted(inputs | {site.node.outputs[0].name for site in sites})
    model.graph.outputs.extend(values[name] for name in names if name in values)
    opened = open_graph(model)
    seen = dict(zip([output.name for output in opened.get_outputs()], opened.run(None, feeds), strict=True))
    arrays = {name: seen.get(name, feeds.get(name)) for name in names}
    return {name: (min(0.0, float(array.min())), max(0.0, float(array.max()))) for name, array in arrays.items()}
