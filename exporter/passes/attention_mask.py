"""Turns masks that are known at build time into attributes of Attention."""

import logging

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.targets.graph_edit import constant, producer, scalar, static

__all__ = ["SimplifyAttentionMask"]

logger = logging.getLogger(__name__)

_MASKED = -1e4
"""Added to a score, this leaves less than exp(-1e4) = 0 of its weight in every float type."""


class SimplifyAttentionMask(ir.passes.InPlacePass):
    """Removes masks from Attention nodes.

    Given:
        %m = Expand(tril(ones(1, 1, 77, 77)), [%batch, 1, 77, 77])
        %y = Attention(%q, %k, %v, %m)                  # queries and keys: 77 tokens
    Result:
        %y = Attention<is_causal=1>(%q, %k, %v)

    1. An Expand over batch and heads is removed: Attention broadcasts the mask. One over queries stays:
       `ExpandAttentionMask` would make it again.
    2. A constant lower triangle, boolean or of 0 and large negative numbers, becomes is_causal.
    3. So does the comparison Range(0, n) <= Range(0, n) of key positions with query positions, for a free n, alone
       or as the condition of a Where between 0 and a large negative number.
    4. A constant that masks nothing is removed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Simplify the mask of every Attention node."""
        modified = False
        for node in model.graph:
            if (
                node.op_type == "Attention"
                and node.domain == ""
                and len(node.inputs) > 3
                and node.inputs[3] is not None
            ):
                modified |= _simplify(node)
        return ir.passes.PassResult(model, modified)


def _simplify(node: ir.Node) -> bool:
    expand = producer(node.inputs[3], "Expand")
    if expand is not None and _adds_rows(expand):
        expand = None
    if expand is not None:
        node.replace_input_with(3, expand.inputs[0])  # case 1
    mask = node.inputs[3]
    visible = _visible(constant(mask))
    if _compares_positions(_condition(mask), node) or (visible is not None and _is_causal(visible, node)):
        node.replace_input_with(3, None)  # cases 2 and 3
        node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)
        return True
    if visible is not None and visible.all():
        node.replace_input_with(3, None)  # case 4
        return True
    logger.debug("%s: its mask %s is not causal", node.name, None if mask is None else mask.name)
    return expand is not None


def _adds_rows(expand: ir.Node) -> bool:
    before, after = (static(value, -2) for value in (expand.inputs[0], expand.outputs[0]))
    return before == 1 and after != 1


def _condition(mask: ir.Value | None) -> ir.Value | None:
    """Find the condition that makes a key visible: `mask` itself, or that of a Where between 0 and a large negative."""
    choice = producer(mask, "Where")
    if choice is not None and scalar(choice.inputs[1]) == 0 and (scalar(choice.inputs[2]) or 0) <= _MASKED:
        mask = choice.inputs[0]
    expand = producer(mask, "Expand")
    return mask if expand is None else expand.inputs[0]


def _visible(mask: npt.NDArray[np.generic] | None) -> npt.NDArray[np.bool_] | None:
    """Convert a constant mask to True where a key is visible; None when the mask is not of that kind."""
    if mask is None:
        return None
    if mask.dtype == np.bool_:
        return mask.astype(np.bool_)
    added = mask.astype(np.float64)
    seen = added == 0
    return seen if bool(np.all(seen | (added <= _MASKED))) else None


def _is_causal(visible: npt.NDArray[np.bool_], node: ir.Node) -> bool:
    rows = visible.shape[-1] if visible.ndim >= 2 else 0
    if static(node.inputs[0], -2) != rows or static(node.inputs[1], -2) != rows:
        return False
    return bool(np.all(visible == np.tri(rows, dtype=np.bool_)))


def _compares_positions(mask: ir.Value | None, node: ir.Node) -> bool:
    """Return whether `mask` is (1, 1, n, n), true where the key's position is not after the query's."""
    compare = producer(mask, "LessOrEqual", "GreaterOrEqual")
    if compare is None:
        return False
    keys, queries = compare.inputs if compare.op_type == "LessOrEqual" else reversed(compare.inputs)
    tokens = _counted_axis(keys, -1)
    if tokens is None or tokens != _counted_axis(queries, -2):
        return False
    return all(value is not None and value.shape is not None and value.shape[-2] == tokens for value in node.inputs[:2])


def _counted_axis(value: ir.Value | None, axis: int) -> int | ir.SymbolicDim | None:
    """Size n, when `value` is 0, 1, ... n - 1 along `axis` and has size 1 along every other axis."""
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    sizes = list(value.shape)
    count = sizes.pop(axis)
    while (unsqueeze := producer(value, "Unsqueeze")) is not None:
        value = unsqueeze.inputs[0]
    counter = producer(value, "Range")
    if counter is None or scalar(counter.inputs[0]) != 0 or scalar(counter.inputs[2]) != 1:
        return None
    return count if all(size == 1 for size in sizes) else None
