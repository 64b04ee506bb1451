"""Finds the nodes of a graph that can be quantized, with their weights and channels."""

from dataclasses import dataclass

import onnx_ir as ir

from diffoundry.targets.graph_edit import static

__all__ = ["QuantizableNode", "quantizable"]

_LEAST = 256
"""Least number of weights of a node: with fewer, its scales and casts cost more than they save."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizableNode:
    """A node with a weight.

    Attributes:
        node: Conv, Gemm, MatMul or Gather.
        activation: Index of its activation input, or None when it has none (Gather).
        weight: Index of its weight input, an initializer.
        channel_axis: Axis of the weight along the output channels; for Gather along the rows.
        input_axis: Axis of the weight that is summed over with the activation's channels.
    """

    node: ir.Node
    activation: int | None
    weight: int
    channel_axis: int
    input_axis: int

    @property
    def name(self) -> str:
        """The node's name."""
        assert self.node.name is not None
        return self.node.name

    @property
    def weight_value(self) -> ir.Value:
        """The initializer."""
        value = self.node.inputs[self.weight]
        assert value is not None
        return value

    @property
    def activation_value(self) -> ir.Value | None:
        """The activation that the weight is multiplied with."""
        return None if self.activation is None else self.node.inputs[self.activation]


def quantizable(graph: ir.Graph) -> list[QuantizableNode]:
    """List a graph's quantizable nodes: convolutions, linear layers and embedding tables with constant float weights.

    Attention's own products stay in float: they have no weight, and no kernel takes them in int8 without writing the
    scores to memory. So do depthwise convolutions: each channel has a few weights, and fixed filters are no weights.
    """
    return [site for node in graph if node.domain == "" for site in [_site(node)] if site is not None]


def _site(node: ir.Node) -> QuantizableNode | None:
    if node.op_type == "Gather":
        axis = node.attributes.get_int("axis", 0)
        fits = _is_weight(node.inputs[0], rank=2) and axis == 0
        return QuantizableNode(node=node, activation=None, weight=0, channel_axis=0, input_axis=1) if fits else None
    if node.op_type not in {"Conv", "Gemm", "MatMul"} or not _is_activation(node.inputs[0]):
        return None
    weight = node.inputs[1]
    if node.op_type == "Conv":
        return (
            QuantizableNode(node=node, activation=0, weight=1, channel_axis=0, input_axis=1)
            if _is_weight(weight) and not _is_depthwise(node)
            else None
        )
    if not _is_weight(weight, rank=2) or bool(node.attributes.get_int("transA", 0)):
        return None
    rows = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    return QuantizableNode(
        node=node, activation=0, weight=1, channel_axis=0 if rows else 1, input_axis=1 if rows else 0
    )


def _is_depthwise(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return node.attributes.get_int("group", 1) > 1 and weight is not None and static(weight, 1) == 1


def _is_weight(value: ir.Value | None, rank: int | None = None) -> bool:
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return False
    shape = value.const_value.shape
    fits = len(shape) >= 2 if rank is None else len(shape) == rank
    return value.const_value.dtype == ir.DataType.FLOAT and fits and value.const_value.size >= _LEAST


def _is_activation(value: ir.Value | None) -> bool:
    return value is not None and not value.is_initializer() and value.dtype == ir.DataType.FLOAT
