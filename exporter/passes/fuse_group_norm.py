"""Fuses group normalization that is written with InstanceNormalization."""

import logging

import numpy as np
import onnx_ir as ir

from diffoundry.exporter.passes.opset import OPSET, require_opset
from diffoundry.targets.graph_edit import constant, new_initializer, producer, replace, sole_user, static

__all__ = ["FuseGroupNorm"]

logger = logging.getLogger(__name__)


class FuseGroupNorm(ir.passes.InPlacePass):
    """Replaces the decomposition of GroupNormalization by the standard's operator.

    Given:
        %r = Reshape(%x, [0, 32, -1])                      # %x: [batch, 320, height, width]
        %n = InstanceNormalization(%r, ones, zeros)
        %m = Reshape(%n, Shape(%x))
        %y = Add(Mul(%m, %scale), %bias)                   # %scale, %bias: [320, 1, 1]
    Result:
        %y = GroupNormalization<num_groups=32>(%x, %scale, %bias)    # %scale, %bias: [320]

    Torch's exporter writes this decomposition below opset 21 and GroupNormalization from opset 21 on.
    """

    def requires(self, model: ir.Model) -> None:
        """Require opset 21, the first with GroupNormalization."""
        require_opset(model, 21, "GroupNormalization")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every InstanceNormalization that matches the pattern."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "InstanceNormalization" and node.domain == "":
                reason = _rewrite(node, model.graph)
                if reason is not None:
                    logger.debug("%s is no group normalisation: %s", node.name, reason)
                modified |= reason is None
        return ir.passes.PassResult(model, modified)


def _rewrite(norm: ir.Node, graph: ir.Graph) -> str | None:
    """Rewrite the pattern around `norm`, or give the reason why it does not match."""
    inner = producer(norm.inputs[0], "Reshape")
    if inner is None:
        return "its input is not reshaped into groups"
    x = inner.inputs[0]
    groups, channels = static(norm.inputs[0], 1), static(x, 1)
    if x is None or x.shape is None or len(x.shape) < 3 or groups is None or channels is None or channels % groups:
        return "the channels do not divide into the groups"
    if not _is_filled_with(norm.inputs[1], 1) or not _is_filled_with(norm.inputs[2], 0):
        return "it has a scale or a bias of its own"
    outer = sole_user(norm.outputs[0])
    if outer is None or outer.op_type != "Reshape" or outer.outputs[0].shape != x.shape:
        return "its output is not reshaped back"
    scaled = _with_channels(outer.outputs[0], "Mul", channels, len(x.shape))
    shifted = None if scaled is None else _with_channels(scaled[0], "Add", channels, len(x.shape))
    if scaled is None or shifted is None:
        return "no multiplication and addition by channel follow"
    parameters = [_vector(graph, value) for value in (scaled[1], shifted[1])]
    attributes: dict[str, float | int] = {
        "num_groups": groups,
        "epsilon": norm.attributes.get_float("epsilon", 1e-5),
    }
    node = ir.node("GroupNormalization", [x, *parameters], attributes, name=norm.name, version=OPSET)
    replace(shifted[0], node.outputs[0], [node])
    return None


def _is_filled_with(value: ir.Value | None, number: float) -> bool:
    array = constant(value)
    return array is not None and bool(np.all(array == number))


def _with_channels(value: ir.Value, op_type: str, channels: int, rank: int) -> tuple[ir.Value, ir.Value] | None:
    """Find the node that combines `value` with a constant along the channels: its result and that constant."""
    node = sole_user(value)
    if node is None or node.op_type != op_type:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    array = constant(other)
    if other is None or array is None or array.size != channels:
        return None
    along = array.ndim == 0 or array.shape[-(rank - 1)] == channels if array.ndim >= rank - 1 else False
    return (node.outputs[0], other) if along else None


def _vector(graph: ir.Graph, value: ir.Value) -> ir.Value:
    array = constant(value)
    assert array is not None
    return new_initializer(graph, f"{value.name}_channels", array.reshape(-1))
