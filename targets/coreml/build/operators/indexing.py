"""Gather, ArgMax and CumSum."""

from typing import Any

import numpy as np
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.translation import Translation, Var, shape_of

__all__ = ["argmax", "argmax_limits", "cumsum", "cumsum_limits", "gather", "gather_nd"]


def gather(t: Translation, node: ir.Node) -> Var:
    """Gather, such as an embedding; its table may be compressed like a layer's weight."""
    table, indices = node.inputs
    assert table is not None
    weight = t.weight(table, node)
    x = t.var(table) if weight is None else t.emit(weight)
    return mb.gather(x=x, indices=t.var(indices), axis=node.attributes.get_int("axis", 0))


def gather_nd(t: Translation, node: ir.Node) -> Var:
    """GatherND."""
    x, indices = (t.var(value) for value in node.inputs)
    return mb.gather_nd(x=x, indices=indices, batch_dims=node.attributes.get_int("batch_dims", 0))


def argmax(t: Translation, node: ir.Node) -> Var:
    """ArgMax, the first of equals.

    `reduce_argmax` does not say which of equals it takes, and the text encoder looks for the first of many end
    tokens. So the largest are marked with numbers that fall along the axis, and the largest mark is unique.
    """
    x = t.var(node.inputs[0])
    shape = shape_of(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(shape)
    largest = mb.reduce_max(x=x, axes=[axis], keep_dims=True)
    along = [size if place == axis else 1 for place, size in enumerate(shape)]
    falling = np.arange(shape[axis], 0, -1, dtype=np.int32).reshape(along)
    marks = mb.mul(x=mb.cast(x=mb.equal(x=x, y=largest), dtype="int32"), y=falling)
    return mb.reduce_argmax(x=marks, axis=axis, keep_dims=bool(node.attributes.get_int("keepdims", 1)))


def argmax_limits(node: ir.Node, _opset: Any) -> str | None:
    """Refuse an ArgMax that selects the last of equal values."""
    return "takes the last of equals, expected the first" if node.attributes.get_int("select_last_index", 0) else None


def cumsum(t: Translation, node: ir.Node) -> Var:
    """CumSum along a constant axis."""
    axis = t.array(node.inputs[1])
    assert axis is not None
    exclusive, reverse = (bool(node.attributes.get_int(name, 0)) for name in ("exclusive", "reverse"))
    place = int(axis) % len(shape_of(node.inputs[0]))
    return mb.cumsum(x=t.var(node.inputs[0]), axis=place, exclusive=exclusive, reverse=reverse)


def cumsum_limits(node: ir.Node, _opset: Any) -> str | None:
    """Constant axis."""
    axis = node.inputs[1]
    return "computes its axis, expected a constant" if axis is None or axis.const_value is None else None
