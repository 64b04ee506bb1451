"""Moves the outliers of an activation into the weights that read it, which makes it easier to quantize."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from diffoundry.exporter.passes.quantizable import QuantizableNode, quantizable
from diffoundry.targets.graph_edit import new_initializer
from diffoundry.targets.weight_data import read_weight

__all__ = ["SmoothQuant", "smoothable", "smoothing_factors"]

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.floating[Any]]

_NORMS = {"LayerNormalization": -1, "GroupNormalization": 1}
"""Norms with a scale and a bias per channel, and the axis of the channels."""

_SMALLEST = 1e-5
"""Least magnitude assumed for a channel: below it the factor would be meaningless."""


@dataclass(frozen=True, kw_only=True)
class SmoothQuant(ir.passes.InPlacePass):
    """Divides the channels of a norm's output by factors and multiplies the weights that read it by the same factors.

    Given:
        %n = LayerNormalization(%x, %scale, %bias)
        %y = MatMul(%n, %w)
    Result:
        %n = LayerNormalization(%x, %scale / s, %bias / s)    # initializers
        %y = MatMul(%n, s * %w)                                # s along the input channels

    Xiao et al. 2022, "SmoothQuant", equation 3, https://arxiv.org/abs/2211.10438. The network's output stays the same,
    no node is added, and %n has fewer outliers.

    Attributes:
        factors: Output of a norm to its s, float64, (channels,), all positive; only outputs that `smoothable` lists.
    """

    factors: Mapping[str, FloatArray]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold the factors into norms and weights."""
        found = smoothable(model.graph)
        for name in sorted(self.factors.keys() & found.keys()):
            _fold(model.graph, found[name], self.factors[name])
        missing = sorted(self.factors.keys() - found.keys())
        if missing:
            logger.debug("not smoothed: %s", ", ".join(missing))
        return ir.passes.PassResult(model, modified=bool(self.factors.keys() & found.keys()))


def smoothable(graph: ir.Graph) -> dict[str, list[QuantizableNode]]:
    """Map the outputs of norms that only convolutions and linear layers read to those layers."""
    sites = {site.node: site for site in quantizable(graph) if site.activation is not None}
    found = {}
    for node in graph:
        if node.domain or node.op_type not in _NORMS or not _has_parameters(node):
            continue
        value = node.outputs[0]
        users = [use.node for use in value.uses()]
        mine = [sites[user] for user in users if user in sites and sites[user].activation_value is value]
        plain = all(site.node.attributes.get_int("group", 1) == 1 for site in mine)
        if mine and len(mine) == len(users) and plain and not value.is_graph_output():
            found[str(value.name)] = mine
    return found


def smoothing_factors(
    graph: ir.Graph, strengths: Mapping[str, float], largest: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """Compute the factors of every norm all of whose readers are to be smoothed.

    s_j = max |x_j|^a / max |w_j|^(1 - a), brought to a geometric mean of 1.

    Args:
        graph: Before smoothing.
        strengths: Name of a node to a, from 0 (all stays in the activation) to 1 (all goes into the weight). Nodes
            that read the same tensor have the same value.
        largest: Tensor name to the largest magnitude of each channel.
    """
    factors = {}
    for name, sites in smoothable(graph).items():
        found = {strengths.get(site.name) for site in sites}
        strength = found.pop() if len(found) == 1 else None
        if strength is None or name not in largest:
            continue
        weights = np.maximum.reduce([_largest_input(site) for site in sites])
        x = np.maximum(largest[name].astype(np.float64), _SMALLEST)
        s = x**strength / np.maximum(weights, _SMALLEST) ** (1 - strength)
        factors[name] = s / np.exp(np.mean(np.log(s)))
    return factors


def _has_parameters(node: ir.Node) -> bool:
    return len(node.inputs) > 2 and all(value is not None and value.is_initializer() for value in node.inputs[1:3])


def _largest_input(site: QuantizableNode) -> FloatArray:
    """Find the largest weight magnitude of each input channel."""
    tensor = site.weight_value.const_value
    assert tensor is not None
    array = read_weight(tensor)
    others = tuple(axis for axis in range(array.ndim) if axis != site.input_axis)
    return np.asarray(np.abs(array).max(axis=others), np.float64)


def _fold(graph: ir.Graph, sites: list[QuantizableNode], factors: FloatArray) -> None:
    value = sites[0].activation_value
    assert value is not None
    norm = value.producer()
    assert norm is not None
    for i in (1, 2):
        norm.replace_input_with(i, _scaled(graph, norm.inputs[i], 1 / factors, 0, f"of_{norm.name}"))
    for site in sites:
        weight = _scaled(graph, site.weight_value, factors, site.input_axis, f"of_{norm.name}")
        site.node.replace_input_with(site.weight, weight)


def _scaled(graph: ir.Graph, value: ir.Value | None, factors: FloatArray, axis: int, suffix: str) -> ir.Value:
    """Multiply an initializer by factors along an axis when it is written; other nodes may still read the old one."""
    assert value is not None
    tensor = value.const_value
    assert tensor is not None
    shape = [1] * len(tensor.shape)
    shape[axis] = -1
    name = f"{value.name}_smoothed_{suffix}"

    def scale() -> ir.TensorProtocol:
        return ir.tensor((read_weight(tensor) * factors.reshape(shape)).astype(np.float32), name=name)

    return new_initializer(
        graph, name, ir.LazyTensor(scale, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)
    )
