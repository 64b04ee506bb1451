"""Gives masks of Attention a row for each query."""

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from diffoundry.exporter.passes.opset import OPSET
from diffoundry.targets.graph_edit import new_initializer, static

__all__ = ["ExpandAttentionMask"]


class ExpandAttentionMask(ir.passes.InPlacePass):
    """Expands a mask with one row for all queries, such as one of padding, along the queries.

    Given:
        %y = Attention(%q, %k, %v, %m)                  # %q: (batch, heads, queries, width), %m: (batch, 1, 1, keys)
    Result:
        %n = Shape<start=2, end=3>(%q)
        %s = Concat<axis=0>(1, 1, %n, 1)
        %e = Expand(%m, %s)
        %y = Attention(%q, %k, %v, %e)

    The standard broadcasts such a mask. ONNX Runtime 1.31 refuses it: "inconsistent q_sequence_length".
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Expand the mask of every Attention node that needs it."""
        nodes = [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]
        modified = [_expand(model.graph, node) for node in nodes]
        return ir.passes.PassResult(model, any(modified))


def _expand(graph: ir.Graph, node: ir.Node) -> bool:
    query, mask = node.inputs[0], node.inputs[3] if len(node.inputs) > 3 else None
    if query is None or mask is None or query.shape is None or mask.shape is None:
        return False
    if len(query.shape) != 4 or static(mask, -2) != 1 or static(query, 2) == 1:
        return False
    builder = tape.Tape()
    rows = builder.op("Shape", [query], {"start": 2, "end": 3}, version=OPSET)
    one = new_initializer(graph, "one_row", np.ones(1, np.int64))
    shape = builder.op("Concat", [one, one, rows, one], {"axis": 0}, version=OPSET)
    expanded = builder.op("Expand", [mask, shape], version=OPSET)
    rows.type = shape.type = ir.TensorType(ir.DataType.INT64)
    rows.shape, shape.shape = ir.Shape([1]), ir.Shape([4])
    front = [1] * (4 - len(mask.shape)) + list(mask.shape[:-2])
    expanded.type, expanded.shape = mask.type, ir.Shape([*front, query.shape[2], mask.shape[-1]])
    graph.insert_before(node, builder.nodes)
    node.replace_input_with(3, expanded)
    for count, added in enumerate(builder.nodes, 1):
        added.name = f"{node.name}/{added.op_type}_{count}"
        added.metadata_props.update(node.metadata_props)
    return True
