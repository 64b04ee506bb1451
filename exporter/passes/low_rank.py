"""Moves the part of a weight that is hardest to quantize into a narrow float branch beside it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from diffoundry.exporter.passes.opset import OPSET
from diffoundry.exporter.passes.quantizable import QuantizableNode, quantizable
from diffoundry.targets.graph_edit import new_initializer
from diffoundry.targets.weight_data import read_weight

__all__ = ["LowRank"]

logger = logging.getLogger(__name__)

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class LowRank(ir.passes.InPlacePass):
    """Splits weights into a product of two narrow matrices and a rest that is easier to quantize.

    Given:
        %y = MatMul(%x, %w)                       # %w: [in, out], an initializer
    Result:
        %d = MatMul(%x, %w_down)                  # [in, rank]
        %u = MatMul(%d, %w_up)                    # [rank, out]
        %r = MatMul(%x, %w - %w_down %w_up)       # keeps the node's name: this one will be quantized
        %y = Add(%r, %u)

    A convolution becomes one of its own size with `rank` outputs, followed by one of 1 x 1.
    Li et al. 2024, "SVDQuant", equation 5, https://arxiv.org/abs/2411.05007. Where the power of the input channels is
    known, the singular values are those of the weight times its root, so the branch holds what changes the output most.

    Attributes:
        ranks: Name of a node to the rank of its branch.
        power: Tensor name to the mean square of each of its channels.
    """

    ranks: Mapping[str, int]
    power: Mapping[str, Array] = field(default_factory=dict)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Split the weights of the named nodes."""
        modified = False
        for site in quantizable(model.graph):
            if site.name in self.ranks and site.activation_value is not None:
                modified |= _split(model.graph, site, self.ranks[site.name], self.power)
        return ir.passes.PassResult(model, modified)


def _split(graph: ir.Graph, site: QuantizableNode, rank: int, power: Mapping[str, Array]) -> bool:
    tensor, x = site.weight_value.const_value, site.activation_value
    assert tensor is not None
    assert x is not None
    weight = read_weight(tensor).astype(np.float64)
    convolution = site.node.op_type == "Conv"
    if convolution and site.node.attributes.get_int("group", 1) != 1:
        logger.debug("%s has groups", site.name)
        return False
    matrix = _as_matrix(weight, site.channel_axis)
    if rank >= min(matrix.shape):
        logger.debug("%s has no more than %d singular values", site.name, rank)
        return False
    down, up = _factors(matrix, rank, power.get(str(x.name)))
    name = str(site.weight_value.name)
    rest = partial(_rest, tensor, site.channel_axis, down, up)
    lazy = ir.LazyTensor(rest, dtype=tensor.dtype, shape=ir.Shape(weight.shape), name=f"{name}_rest_{rank}")
    site.node.replace_input_with(site.weight, new_initializer(graph, f"{name}_rest_{rank}", lazy))
    if convolution:
        kernel = (*weight.shape[1:], rank)
        weights = np.moveaxis(down.reshape(kernel), -1, 0), up.T.reshape(*up.T.shape, *[1] * (weight.ndim - 2))
    else:
        weights = down, up
    _add_branch(graph, site, x, [np.ascontiguousarray(part, np.float32) for part in weights], f"{name}_rank_{rank}")
    return True


def _as_matrix(weight: Array, channel_axis: int) -> Array:
    """Return a weight as (in, out)."""
    return np.moveaxis(weight, channel_axis, -1).reshape(-1, weight.shape[channel_axis])


def _rest(tensor: ir.TensorProtocol, channel_axis: int, down: Array, up: Array) -> ir.TensorProtocol:
    """Compute a weight less the product of its branch, when it is written."""
    weight = read_weight(tensor).astype(np.float64)
    moved = np.moveaxis(weight, channel_axis, -1)
    rest = (_as_matrix(weight, channel_axis) - down @ up).reshape(moved.shape)
    return ir.tensor(np.ascontiguousarray(np.moveaxis(rest, -1, channel_axis), np.float32))


def _factors(matrix: Array, rank: int, power: Array | None) -> tuple[Array, Array]:
    """Compute the best product of that rank: (in, rank) and (rank, out)."""
    shares = np.ones((len(matrix), 1))
    if power is not None and power.any():
        root = np.sqrt(power + 1e-6 * power.max())
        shares = np.repeat(root, len(matrix) // len(root))[:, None]
    u, s, v = np.linalg.svd(matrix * shares, full_matrices=False)
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root / shares, root[:, None] * v[:rank]


def _add_branch(graph: ir.Graph, site: QuantizableNode, x: ir.Value, weights: list[Array], name: str) -> None:
    node, y = site.node, site.node.outputs[0]
    op_type = "Conv" if node.op_type == "Conv" else "MatMul"
    attributes = dict(node.attributes) if op_type == "Conv" else {}
    first, second = (
        new_initializer(graph, f"{name}_{part}", array) for part, array in zip(("down", "up"), weights, strict=True)
    )
    down = ir.node(op_type, [x, first], attributes, name=f"{node.name}/down", version=OPSET)
    up = ir.node(op_type, [down.outputs[0], second], name=f"{node.name}/up", version=OPSET)
    total = ir.node("Add", [y, up.outputs[0]], name=f"{node.name}/sum", version=OPSET)
    for made, ending in ((down, "down"), (up, "up"), (total, "sum")):
        made.outputs[0].name, made.outputs[0].type = f"{y.name}_{ending}", y.type
    up.outputs[0].shape = total.outputs[0].shape = y.shape
    ir.convenience.replace_all_uses_with(y, total.outputs[0], replace_graph_outputs=True)
    total.replace_input_with(0, y)
    graph.insert_after(node, (down, up, total))
