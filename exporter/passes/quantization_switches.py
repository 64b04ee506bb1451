"""Adds inputs that switch nodes between quantized and float, so that calibration needs one graph for many trials."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from diffoundry.exporter.passes.opset import OPSET
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.targets.graph_edit import new_initializer

__all__ = ["SWITCHES", "RoundFloats", "SwitchQuantized"]

SWITCHES = "switches"
"""Name of the input that both passes add: bool, one for each node or group of nodes, true for the coarser values."""


@dataclass(frozen=True, kw_only=True)
class SwitchQuantized(ir.passes.InPlacePass):
    """Makes each quantized node choose between quantized and float operands when the graph runs.

    Given:
        %y = Conv(%d, %e, %b)                       # from `Quantize`: %d is the quantized %x, %e the quantized %w
    Result:
        %s = Gather(%switches, 3)                   # for the fourth of `nodes`
        %y = Conv(Where(%s, %d, %x), Where(%s, %e, %w), %b)
        ... = ...(Where(%s, %y_dequantized, %y))    # where its output is quantized too

    Attributes:
        nodes: Names of the quantized nodes, in the order of the switches.
        original: The graph before `Quantize`, for the float operands.
        outputs: True if `Quantize` quantized the outputs of convolutions too.
    """

    nodes: Sequence[str]
    original: ir.Model
    outputs: bool = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the switches."""
        sites = {site.name: site for site in quantizable(self.original.graph)}
        values = ir.convenience.create_value_mapping(model.graph)
        switches = _Switches(model.graph, len(self.nodes))
        chosen: dict[str, ir.Value] = {}
        for i, name in enumerate(self.nodes):  # before inputs: a node may read the choice of another one's switch
            y = str(sites[name].node.outputs[0].name)
            if self.outputs and sites[name].node.op_type == "Conv" and f"{y}_dequantized" in values:
                chosen[y] = switches.choose_after(i, values[f"{y}_dequantized"], values[y])
        nodes = {node.name: node for node in model.graph}
        for i, name in enumerate(self.nodes):
            site, node = sites[name], nodes[name]
            for index in (site.activation, site.weight):
                exact = None if index is None else site.node.inputs[index]
                coarse = None if index is None else node.inputs[index]
                if index is None or exact is None or coarse is None or exact.name == coarse.name:
                    continue
                key = str(exact.name)
                if key in chosen:
                    coarse = values[f"{key}_dequantized"]
                elif key not in values:  # a float weight that no node reads any more
                    assert exact.const_value is not None
                    values[key] = new_initializer(model.graph, key, exact.const_value)
                node.replace_input_with(index, switches.choose(i, coarse, chosen.get(key, values[key])))
        model.graph.sort()
        return ir.passes.PassResult(model, modified=bool(self.nodes))


@dataclass(frozen=True, kw_only=True)
class RoundFloats(ir.passes.InPlacePass):
    """Rounds inputs and outputs of nodes to another float type and back, with one switch for each group of nodes.

    Given:
        %y = Mul(%x, %w)                                                # float32
    Result:
        %s = Gather(%switches, 0)
        %v = Where(%s, Cast<FLOAT>(Cast<FLOAT16>(%w)), %w)              # and %x in the same way
        %z = Mul(%u, %v)
        %y = Where(%s, Cast<FLOAT>(Cast<FLOAT16>(%z)), %z)

    Every operator computes in float32 and its result is rounded, as on devices whose sums are float32. Values beyond
    the type's range become infinite.

    Attributes:
        groups: Names of nodes; those of one group share a switch.
        dtype: FLOAT16 or BFLOAT16.
        switched: True if there are switches; without them every node of the groups is always rounded.
    """

    groups: Sequence[Sequence[str]]
    dtype: ir.DataType = ir.DataType.FLOAT16
    switched: bool = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert roundings and switches."""
        nodes = {node.name: node for node in model.graph}
        switches = _Switches(model.graph, len(self.groups) if self.switched else 0)
        for i, group in enumerate(self.groups):
            switch = i if self.switched else None
            for node in (nodes[name] for name in group):
                for index, value in enumerate(node.inputs):
                    if value is not None and value.dtype == ir.DataType.FLOAT:
                        node.replace_input_with(index, switches.round(switch, value, self.dtype))
                for output in node.outputs:
                    if output.dtype == ir.DataType.FLOAT and output.uses():
                        switches.choose_after(switch, switches.rounded(output, self.dtype), output)
        model.graph.sort()
        return ir.passes.PassResult(model, modified=bool(self.groups))


class _Switches:
    """The switches of one graph and the values they choose between. New nodes come last: the caller sorts the graph."""

    def __init__(self, graph: ir.Graph, count: int) -> None:
        self._graph = graph
        self._input = ir.Value(name=SWITCHES, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([count]))
        if count:
            graph.inputs.append(self._input)
        self._states: dict[int, ir.Value] = {}
        self._rounded: dict[tuple[ir.Value, int | None], ir.Value] = {}
        self._made: set[ir.Value] = set()
        self._count = 0

    def choose(self, i: int | None, coarse: ir.Value, exact: ir.Value) -> ir.Value:
        """Choose one of two values by the state of switch `i`; without a switch the coarse one."""
        if i is None:
            return coarse
        if i not in self._states:
            index = new_initializer(self._graph, f"{SWITCHES}_{i}", np.array(i, np.int64))
            self._states[i] = self._add("Gather", [self._input, index], ir.DataType.BOOL, ir.Shape([]))
        return self._add("Where", [self._states[i], coarse, exact], ir.DataType.FLOAT, exact.shape)

    def choose_after(self, i: int | None, coarse: ir.Value, exact: ir.Value) -> ir.Value:
        """Make all readers of `exact` or `coarse` read the choice of switch `i`; `coarse` keeps its inputs."""
        maker = coarse.producer()
        assert maker is not None
        making = {maker} | {value.producer() for value in maker.inputs if value is not None}
        readers = [use for value in (coarse, exact) for use in value.uses() if use.node not in making]
        chosen = self.choose(i, coarse, exact)
        for use in readers:
            use.node.replace_input_with(use.idx, chosen)
        return chosen

    def round(self, i: int | None, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Round a value when switch `i` is on; several readers of one switch share it."""
        if i is None and value in self._made:
            return value
        if (value, i) not in self._rounded:
            self._rounded[value, i] = self.choose(i, self.rounded(value, dtype), value)
        return self._rounded[value, i]

    def rounded(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Round a value to another type and back."""
        down = self._add("Cast", [value], dtype, value.shape, to=int(dtype))
        up = self._add("Cast", [down], ir.DataType.FLOAT, value.shape, to=int(ir.DataType.FLOAT))
        self._made.add(up)
        return up

    def _add(
        self, op_type: str, inputs: Sequence[ir.Value], dtype: ir.DataType, shape: ir.Shape | None, **attributes: int
    ) -> ir.Value:
        self._count += 1
        node = ir.node(op_type, inputs, attributes, name=f"{SWITCHES}/{op_type}_{self._count}", version=OPSET)
        node.outputs[0].name = f"{SWITCHES}_{self._count}_output"
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), shape
        self._graph.append(node)
        return node.outputs[0]
