"""Builds the candidate graphs of one precision: quantized graphs, and graphs with narrower floats."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import onnx_ir as ir

from diffoundry.calibration.units import Unit
from diffoundry.exporter.passes.half_precision import HalfPrecision, KeepList
from diffoundry.exporter.passes.quantizable import QuantizableNode, quantizable
from diffoundry.exporter.passes.quantization_switches import RoundFloats, SwitchQuantized
from diffoundry.exporter.passes.quantize import has_output_kernel, weight_format
from diffoundry.exporter.steps.convert_precision import DTYPES, convert
from diffoundry.runtime.bundle.quantization import ComponentChoice, ComponentRanges
from diffoundry.targets.base import PrecisionFormat

__all__ = ["NarrowFloats", "QuantizedGraphs"]

LoadGraph = Callable[[str], ir.Model]
"""Loads a component's portable graph."""


class QuantizedGraphs:
    """Graphs with quantized nodes. Implements `trials.CandidateGraphs`.

    Nodes that are not quantized run in fp32, whatever the format says. The error of half floats is small beside that of
    quantization, and has its own search.

    Attributes:
        format_count: Number of different formats.
        units: One for each quantizable node.
    """

    def __init__(
        self,
        load: LoadGraph,
        components: Sequence[str],
        formats: Sequence[PrecisionFormat],
        ranges: Mapping[str, ComponentRanges],
        rows: Mapping[str, Mapping[str, int]],
        *,
        by_size: bool,
    ) -> None:
        """Collect the units of the graphs.

        Args:
            load: Loads a component's graph.
            components: Names of the components.
            formats: Formats that the targets want for this precision; all with the same weights.
            ranges: Component to its measured ranges.
            rows: Component to tensor to its number of rows of channels, which determines a node's work.
            by_size: True if a unit's saving is in bytes, otherwise in multiplications.
        """
        self._load = load
        self._formats = list(dict.fromkeys(replace(form, floats="fp32") for form in formats))
        self._wanted = list(formats)
        self._ranges = ranges
        self._sizes: dict[str, _Sizes] = {}
        self.units: list[Unit] = []
        for component in components:
            graph = load(component).graph
            sites = [site for site in quantizable(graph) if not self._activations or self._measured(component, site)]
            self._sizes[component] = _Sizes(graph, sites)
            self.units += [self._unit(component, site, rows.get(component, {}), by_size=by_size) for site in sites]

    @property
    def format_count(self) -> int:
        """Number of different formats."""
        return len(self._formats)

    @property
    def _activations(self) -> bool:
        return any(form.activations is not None for form in self._formats)

    def _measured(self, component: str, site: QuantizableNode) -> bool:
        """Return whether a node reads an activation that had values, which tokens of other images have not."""
        value = site.activation_value
        return value is not None and str(value.name) in self._ranges[component].tensors

    def _unit(self, component: str, site: QuantizableNode, rows: Mapping[str, int], *, by_size: bool) -> Unit:
        sizes, form = self._sizes[component], self._wanted[0]
        if by_size:
            saving = float(sizes.saved(site.name, form, fallback=False))
        else:
            saving = float(_multiplications(site, rows))
        middle = float(sizes.saved(site.name, form, fallback=True)) if form.weights == "int4" else None
        return Unit(component=component, nodes=(site.name,), saving=saving, intermediate=middle)

    def graph(self, component: str, choice: ComponentChoice, index: int) -> ir.Model:
        """See `trials.CandidateGraphs.graph`."""
        return convert(self._load(component), self._formats[index], choice, self._ranges[component])

    def switched(self, component: str, units: Sequence[Unit], index: int) -> ir.Model:
        """See `trials.CandidateGraphs.switched`."""
        nodes = tuple(node for unit in units for node in unit.nodes)
        model = self.graph(component, ComponentChoice(quantized=nodes), index)
        SwitchQuantized(nodes=nodes, original=self._load(component), outputs=self._formats[index].outputs)(model)
        return model

    def size(self, component: str, choice: ComponentChoice, index: int) -> int:
        """See `trials.CandidateGraphs.size`; counts the floats that the targets want."""
        sizes, fallback = self._sizes[component], set(choice.fallback)
        return max(
            sizes.total(wanted) - sum(sizes.saved(name, wanted, fallback=name in fallback) for name in choice.quantized)
            for wanted in self._wanted
            if replace(wanted, floats="fp32") == self._formats[index]
        )

    def weight_bytes(self, unit: Unit) -> int:
        """See `trials.CandidateGraphs.weight_bytes`."""
        return sum(self._sizes[unit.component].weights[node][0] * 4 for node in unit.nodes)


class NarrowFloats:
    """Graphs that compute in fp16 or bf16. Implements `trials.CandidateGraphs`.

    Attributes:
        format_count: One.
        units: Nodes that can compute in the type, grouped by module of the network.
    """

    format_count: ClassVar[int] = 1

    def __init__(
        self, load: LoadGraph, components: Sequence[str], floats: str, float32: Mapping[str, Sequence[str]]
    ) -> None:
        """Collect the units of the graphs.

        Args:
            load: Loads a component's graph.
            components: Names of the components.
            floats: "fp16" or "bf16".
            float32: Component to the nodes that always stay in float32.
        """
        self._load = load
        self._dtype = DTYPES[floats]
        self._float32 = {name: frozenset(nodes) for name, nodes in float32.items()}
        self.units: list[Unit] = []
        for component in components:
            groups: dict[str, list[str]] = {}
            for name in self._narrow(load(component), self._float32.get(component, frozenset())):
                module = name.rpartition("/")[0] or name
                groups.setdefault(module, []).append(name)
            self.units += [Unit(component=component, nodes=tuple(nodes), saving=1.0) for nodes in groups.values()]

    def _narrow(self, model: ir.Model, float32: frozenset[str]) -> list[str]:
        """Names of the nodes that compute in the narrow type when these stay in float32."""
        kept = KeepList(nodes=float32).select(model.graph)
        return [str(node.name) for node in model.graph if node not in kept and _computes_floats(node)]

    def graph(self, component: str, choice: ComponentChoice, index: int) -> ir.Model:  # noqa: ARG002  # there is one
        """See `trials.CandidateGraphs.graph`."""
        model = self._load(component)
        groups = [self._narrow(model, frozenset(choice.float32))]
        RoundFloats(groups=groups, dtype=self._dtype, switched=False)(model)
        return model

    def switched(self, component: str, units: Sequence[Unit], index: int) -> ir.Model:  # noqa: ARG002  # there is one
        """See `trials.CandidateGraphs.switched`."""
        model = self._load(component)
        RoundFloats(groups=[unit.nodes for unit in units], dtype=self._dtype)(model)
        return model

    def size(self, component: str, choice: ComponentChoice, index: int) -> int:  # noqa: ARG002  # there is one
        """See `trials.CandidateGraphs.size`."""
        model = self._load(component)
        HalfPrecision(dtype=self._dtype, keep=KeepList(nodes=frozenset(choice.float32)))(model)
        return _bytes_of(model.graph)

    def weight_bytes(self, unit: Unit) -> int:
        """See `trials.CandidateGraphs.weight_bytes`."""
        nodes = {node.name: node for node in self._load(unit.component).graph}
        values = {value for name in unit.nodes for value in nodes[name].inputs if value is not None}
        return sum(value.const_value.nbytes for value in values if value.is_initializer() and value.const_value)


class _Sizes:
    """Sizes of a graph's weights in each format."""

    def __init__(self, graph: ir.Graph, sites: Sequence[QuantizableNode]) -> None:
        self._floats = sum(v.const_value.size for v in graph.initializers.values() if _is_float(v) and v.const_value)
        self._others = _bytes_of(graph) - 4 * self._floats
        self.weights = {site.name: (_size_of(site), site) for site in sites}

    def total(self, form: PrecisionFormat) -> int:
        """Bytes with nothing quantized."""
        return self._others + self._floats * _bytes_of_float(form)

    def saved(self, name: str, form: PrecisionFormat, *, fallback: bool) -> int:
        """Bytes that quantizing a node saves."""
        size, site = self.weights[name]
        if form.outputs and not has_output_kernel(site):
            return 0
        kind = weight_format(site, str(form.weights), form.block, fallback=fallback)
        bits = 4 if kind.block is not None else 8
        shape = site.weight_value.const_value.shape.numpy()  # type: ignore[union-attr]  # a site's weight has a value
        scales = shape[kind.axis] if kind.block is None else size // kind.block
        return size * _bytes_of_float(form) - size * bits // 8 - scales * _bytes_of_float(form)


def _multiplications(site: QuantizableNode, rows: Mapping[str, int]) -> int:
    """Count a node's multiplications for all rows of its activation."""
    x = site.activation_value
    strides = site.node.attributes.get_ints("strides", (1,)) if site.node.op_type == "Conv" else (1,)
    each = _size_of(site)
    for stride in strides:
        each //= stride
    return each * rows.get("" if x is None else str(x.name), 1)


def _size_of(site: QuantizableNode) -> int:
    tensor = site.weight_value.const_value
    assert tensor is not None
    return int(tensor.size)


def _bytes_of(graph: ir.Graph) -> int:
    return sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)


def _bytes_of_float(form: PrecisionFormat) -> int:
    return 4 if form.floats == "fp32" else 2


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT


def _computes_floats(node: ir.Node) -> bool:
    return any(output.dtype == ir.DataType.FLOAT for output in node.outputs) and node.domain == ""
