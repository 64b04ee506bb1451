"""Turns computed Reshape targets into constants where symbolic shapes allow it, and removes needless Reshapes."""

import logging

import numpy as np
import onnx_ir as ir

from diffoundry.targets.graph_edit import constant, new_initializer

__all__ = ["ReshapeConstants"]

logger = logging.getLogger(__name__)

_COPY, _REST = 0, -1


class ReshapeConstants(ir.passes.InPlacePass):
    """Writes the target of a Reshape as numbers, `0` (copy this dimension) and at most one `-1` (the rest).

    Given:
        %s = Concat(%batch, [-1], [8], [40])
        %y = Reshape<allowzero=1>(%x, %s)        # %x: [batch, height*width, 320], %y: [batch, height*width, 8, 40]
    Result:
        %y = Reshape(%x, [0, 0, 8, 40])

    A Reshape to the shape that its input already has is replaced by its input. A Reshape is left alone when its shapes
    are unknown, or when two dimensions are neither numbers nor copies.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every Reshape of the graph that allows it."""
        modified = False
        for node in model.graph:
            if node.op_type == "Reshape" and node.domain == "":
                modified |= _make_constant(node, model.graph)
        return ir.passes.PassResult(model, modified)


def _make_constant(node: ir.Node, graph: ir.Graph) -> bool:
    source = node.inputs[0]
    if source is not None and _is_idle(source, node.outputs[0]):
        ir.convenience.replace_all_uses_with(node.outputs[0], source)
        return True
    if constant(node.inputs[1]) is not None:
        return False
    target = _target(source, node.outputs[0])
    if target is None:
        logger.debug("%s: the target shape stays computed: %s", node.name, node.outputs[0].shape)
        return False
    shape = new_initializer(graph, f"{node.outputs[0].name}_shape", np.array(target, np.int64))
    node.replace_input_with(1, shape)
    node.attributes.pop("allowzero", None)
    return True


def _is_idle(source: ir.Value, result: ir.Value) -> bool:
    """Return whether input and output have the same known shape. A node that gives a graph output keeps its name."""
    if source.shape is None or result.shape is None or result.is_graph_output() or not result.uses():
        return False
    return source.shape == result.shape and None not in [getattr(size, "value", size) for size in source.shape]


def _target(source: ir.Value | None, result: ir.Value) -> list[int] | None:
    if source is None or source.shape is None or result.shape is None:
        return None
    target = []
    for axis, size in enumerate(result.shape):
        if isinstance(size, int):
            if size == 0:
                return None
            target.append(size)
        elif axis < len(source.shape) and size.value is not None and size == source.shape[axis]:
            target.append(_COPY)
        else:
            target.append(_REST)
    return target if target.count(_REST) <= 1 else None
