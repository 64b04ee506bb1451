"""Leaves out the inputs that have no elements in engines of one size, such as the tokens of further images."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from diffoundry.targets.graph_edit import new_initializer, remove_unused, replace

__all__ = ["drop_empty_inputs"]

_SAME_SHAPE = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear")
"""Operators whose result is empty where their first input is."""


def drop_empty_inputs(graph: ir.Graph, sizes: Mapping[str, int]) -> None:
    """Remove the inputs with a dimension of size 0, where they are only joined to other values.

    Given:
        %y = Concat(%x, %more, axis=0)   # %more: [reference, 64], whose size is 0
    Result:
        %y = %x

    Args:
        graph: A portable graph.
        sizes: Symbol to its size.
    """
    empty = {name for name, size in sizes.items() if size == 0}
    for value in list(graph.inputs):
        if value.shape is not None and empty & value.shape.free_symbols():
            _replace_uses(graph, value, empty)
            if not value.uses():
                graph.inputs.remove(value)


def _replace_uses(graph: ir.Graph, value: ir.Value, empty: set[str]) -> None:
    for node, index in list(value.uses()):
        if node.graph is None:  # removed with another use
            continue
        (result, *_) = node.outputs
        if node.op_type == "Concat":
            _leave_out(node, value)
        elif node.op_type == "Shape" and (sizes := _known_sizes(node, value, empty)) is not None:
            name = f"sizes_{'_'.join(map(str, sizes))}"
            ir.convenience.replace_all_uses_with(result, new_initializer(graph, name, np.array(sizes, np.int64)))
            remove_unused(node)
        elif node.op_type in _SAME_SHAPE and index == 0:
            _replace_uses(graph, result, empty)
            remove_unused(node)


def _leave_out(node: ir.Node, value: ir.Value) -> None:
    """Join the other inputs of a Concat alone."""
    kept = [one for one in node.inputs if one is not None and one is not value]
    if len(kept) > 1:
        joined = ir.node("Concat", kept, attributes={"axis": node.attributes.get_int("axis", 0)})
        replace(node.outputs[0], joined.outputs[0], [joined])
        return
    ir.convenience.replace_all_uses_with(node.outputs[0], kept[0])
    remove_unused(node)


def _known_sizes(node: ir.Node, value: ir.Value, empty: set[str]) -> list[int] | None:
    """Return the result of a Shape, or None where a size is not known."""
    assert value.shape is not None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(value.shape))
    dims = [0 if str(dim) in empty else dim for dim in list(value.shape)[start:end]]
    return None if any(not isinstance(dim, int) for dim in dims) else [dim for dim in dims if isinstance(dim, int)]
