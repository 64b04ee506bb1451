"""Turns masks that are known at build time into what Attention knows by itself."""

import logging

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.targets.graph_edit import constant, producer, static

__all__ = ["SimplifyAttentionMask"]

logger = logging.getLogger(__name__)

_MASKED = -1e4
"""Added to a score, this leaves less than exp(-1e4) = 0 of its weight in every float type."""


class SimplifyAttentionMask(ir.passes.InPlacePass):
    """Takes masks off Attention nodes.

    Given:
        %m = Expand(tril(ones(1, 1, 77, 77)), [%batch, 1, 77, 77])
        %y = Attention(%q, %k, %v, %m)                  # queries and keys: 77 tokens
    Result:
        %y = Attention<is_causal=1>(%q, %k, %v)

    1. An Expand is taken off: the mask broadcasts by itself.
    2. A constant lower triangle, boolean or of 0 and large negative numbers, becomes is_causal.
    3. A constant that masks nothing goes.
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
    modified = expand is not None and constant(expand.inputs[0]) is not None
    if expand is not None and modified:
        node.replace_input_with(3, expand.inputs[0])  # case 1
    visible = _visible(constant(node.inputs[3]))
    if visible is None:
        logger.debug("%s: its mask is computed, or adds other numbers than 0 and -inf", node.name)
    elif visible.all():
        node.replace_input_with(3, None)  # case 3
        modified = True
    elif _is_causal(visible, node):
        node.replace_input_with(3, None)  # case 2
        node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)
        modified = True
    else:
        logger.debug("%s: its mask of shape %s is not causal", node.name, visible.shape)
    return modified


def _visible(mask: npt.NDArray[np.generic] | None) -> npt.NDArray[np.bool_] | None:
    """True where a key is seen, or None when the mask is not of that kind."""
    if mask is None:
        return None
    if mask.dtype == np.bool_:
        return mask.astype(np.bool_)
    added = mask.astype(np.float64)
    seen = added == 0
    return seen if bool(np.all(seen | (added <= _MASKED))) else None


def _is_causal(visible: npt.NDArray[np.bool_], node: ir.Node) -> bool:
    rows, columns = visible.shape[-2:] if visible.ndim >= 2 else (0, 0)
    if rows != columns or static(node.inputs[0], -2) != rows or static(node.inputs[1], -2) != rows:
        return False
    return bool(np.all(visible == np.tri(rows, dtype=np.bool_)))
