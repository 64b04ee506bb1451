"""Adds graph outputs that report the largest magnitude of inner values."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from diffoundry.exporter.passes.opset import OPSET
from diffoundry.targets.graph_edit import new_initializer

__all__ = ["PEAK", "AddRangeOutputs"]

PEAK = "peak:"
"""Prefix of the added outputs; the name of a node follows."""


@dataclass(frozen=True, kw_only=True)
class AddRangeOutputs(ir.passes.InPlacePass):
    """Adds an output for every node that computes floats: the largest magnitude among its inputs and outputs.

    Given:
        [scale] %y = Mul(%x, %w)
    Result:
        %peak:scale = Max(ReduceMax(Abs(%x)), ReduceMax(Abs(%y)))    # %w is an initializer and is left out

    Attention computes its scores internally. By Cauchy-Schwarz no score exceeds the largest norm of a query times that
    of a key, times the scale. That bound counts too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the outputs."""
        graph = model.graph
        tails = _Tails(graph)
        for node in tuple(graph):
            values = [value for value in (*node.inputs, *node.outputs) if value is not None and _is_computed(value)]
            if not values or node.domain:
                continue
            peaks = [tails.peak(value) for value in dict.fromkeys(values)]
            if node.op_type == "Attention":
                peaks.append(tails.score(node))
            peak = tails.add("Max", peaks)
            peak.name, peak.shape = f"{PEAK}{node.name}", ir.Shape([])
            graph.outputs.append(peak)
        return ir.passes.PassResult(model, modified=True)


class _Tails:
    """The nodes behind a graph that reduce its values to numbers."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._peaks: dict[ir.Value, ir.Value] = {}

    def peak(self, value: ir.Value) -> ir.Value:
        """Add a scalar with the largest magnitude of a value."""
        if value not in self._peaks:
            self._peaks[value] = self.add("ReduceMax", [self.add("Abs", [value])], keepdims=0)
        return self._peaks[value]

    def score(self, node: ir.Node) -> ir.Value:
        """Add a scalar upper bound of an Attention's scores."""
        query, key = node.inputs[0], node.inputs[1]
        assert query is not None
        assert key is not None
        width = query.shape[-1] if query.shape is not None else None
        scale = node.attributes.get_float("scale", float(width) ** -0.5 if isinstance(width, int) else 1.0)
        axis = new_initializer(self._graph, "peak_last_axis", np.array([-1], np.int64))
        factor = new_initializer(self._graph, f"peak_scale_{scale!r}", np.array(scale, np.float32))
        lengths = [
            self.add("ReduceMax", [self.add("ReduceL2", [value, axis], keepdims=0)], keepdims=0)
            for value in (query, key)
        ]
        return self.add("Mul", [self.add("Mul", lengths), factor])

    def add(self, op_type: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
        """Append a node."""
        node = ir.node(op_type, inputs, attributes, version=OPSET)
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self._graph.append(node)
        return node.outputs[0]


def _is_computed(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT and not value.is_initializer()
