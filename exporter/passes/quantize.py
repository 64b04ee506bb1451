"""Quantizes weights and activations by QuantizeLinear and DequantizeLinear around the chosen nodes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from diffoundry.exporter.passes.opset import OPSET, require_opset
from diffoundry.exporter.passes.quantizable import QuantizableNode, quantizable
from diffoundry.exporter.passes.quantize_weights import WeightFormat, per_block, per_channel, round_scales
from diffoundry.runtime.errors import ConfigError
from diffoundry.targets.graph_edit import new_initializer
from diffoundry.targets.weight_data import read_weight

__all__ = ["Quantize", "Range", "has_output_kernel", "weight_format"]

logger = logging.getLogger(__name__)

Range = tuple[float, float]
"""Smallest and largest value that a quantized tensor has to hold."""

_WEIGHTS = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}

_ACTIVATIONS = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8, "fp8": ir.DataType.FLOAT8E4M3FN}

_LARGEST_FP8 = 448.0


@dataclass(frozen=True, kw_only=True)
class Quantize(ir.passes.InPlacePass):
    """Stores weights in fewer bits and rounds activations, in the operators of the standard.

    Given:
        %y = Conv(%x, %w, %b)                                       # float32, %w and %b initializers
    Result:
        %q = QuantizeLinear(%x, %x_scale, %x_zero)                  # one for all nodes that read %x in int8
        %d = DequantizeLinear(%q, %x_scale, %x_zero)
        %e = DequantizeLinear<axis=0>(%w_int8, %w_scale, %w_zero)   # one scale an output channel
        %y = Conv(%d, %e, %b)                                       # the bias stays float

    Other nodes that read %x or %w still read them in float. Engines fuse the pairs into int8 kernels. An engine that
    does not still computes the same numbers in float.

    Attributes:
        nodes: Names of the nodes to quantize; a name that `quantizable` does not list is an error.
        weights: "int8": symmetric, one scale an output channel; "int4": symmetric, blocks along the input axis;
            "fp8": E4M3, one scale an output channel.
        activations: None; "int8": symmetric, zero point 0; "uint8": asymmetric; "fp8": E4M3. One scale a tensor.
        ranges: Tensor name to its range, for every quantized activation.
        outputs: True if the outputs of convolutions are quantized too. Nodes without an int8 kernel in ONNX Runtime
            then stay float; see `has_output_kernel`.
        block: Weights per scale where weights are int4.
        fallback: Those of `nodes` whose weights are int8 although `weights` says int4.
        power: Tensor name to the mean square of each of its channels; the scales of int4 blocks are fitted to it.
        floats: Type that the graph's floats will be converted to: scales are rounded to it before any division by
            them.
    """

    nodes: frozenset[str]
    weights: str = "int8"
    activations: str | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    outputs: bool = False
    block: int = 64
    fallback: frozenset[str] = frozenset()
    power: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    floats: ir.DataType = ir.DataType.FLOAT

    def requires(self, model: ir.Model) -> None:
        """Require opset 21: blocks exist from opset 21 on, fp8 from 19."""
        require_opset(model, 21, "DequantizeLinear with blocks")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantize the chosen nodes.

        Raises:
            ConfigError: A chosen node cannot be quantized or does not exist, or a range is missing.
        """
        sites = {site.name: site for site in quantizable(model.graph)}
        unknown = sorted(self.nodes - sites.keys())
        if unknown:
            raise ConfigError(
                f"quantization: got the node {unknown[0]!r}, expected one with a float weight in graph "
                f"{model.graph.name!r}; the recipe belongs to another graph, calibrate again"
            )
        edit = _Edit(model.graph, self)
        for name, site in sites.items():
            if name in self.nodes:
                edit.site(site)
        logger.debug("%d of %d nodes quantized", len(self.nodes), len(sites))
        return ir.passes.PassResult(model, modified=bool(self.nodes))


def weight_format(site: QuantizableNode, weights: str, block: int, *, fallback: bool = False) -> WeightFormat:
    """Choose the format of a node's weight; see `Quantize`. Embedding tables have no int4 form."""
    if weights == "int4" and not fallback and site.activation is not None:
        tensor = site.weight_value.const_value
        assert tensor is not None
        return per_block(site.input_axis, tensor.shape.numpy()[site.input_axis], block)
    return per_channel(_WEIGHTS.get(weights, ir.DataType.INT8), site.channel_axis)


def has_output_kernel(site: QuantizableNode) -> bool:
    """Return whether ONNX Runtime has an int8 kernel for the node if convolution outputs are quantized and biases not.

    These are convolutions whose output is quantized, and MatMul. Any other node is converted back to float in every
    call, which is slower than staying float.
    """
    node = site.node
    return node.op_type == "MatMul" or (node.op_type == "Conv" and not node.outputs[0].is_graph_output())


class _Edit:
    """The tensors of one graph quantized so far."""

    def __init__(self, graph: ir.Graph, options: Quantize) -> None:
        self._graph = graph
        self._options = options
        self._activations: dict[str, ir.Value] = {}
        self._weights: dict[tuple[str, WeightFormat], ir.Value] = {}

    def site(self, site: QuantizableNode) -> None:
        """Make a node read quantized tensors, and write one if convolution outputs are quantized."""
        node, options = site.node, self._options
        if options.outputs and not has_output_kernel(site):
            logger.debug("%s stays in float", node.name)
            return
        node.replace_input_with(site.weight, self._weight(site))
        x = site.activation_value
        if options.activations is None or site.activation is None or x is None:
            return
        node.replace_input_with(site.activation, self._activation(x))
        if options.outputs and node.op_type == "Conv":
            y = node.outputs[0]
            readers = [use for use in y.uses() if use.node.op_type != "QuantizeLinear"]
            rounded = self._activation(y)
            for use in readers:
                use.node.replace_input_with(use.idx, rounded)

    def _weight(self, site: QuantizableNode) -> ir.Value:
        options = self._options
        form = weight_format(site, options.weights, options.block, fallback=site.name in options.fallback)
        value = site.weight_value
        key = str(value.name), form
        if key not in self._weights:
            self._weights[key] = self._new_weight(site, value, form)
        return self._weights[key]

    def _new_weight(self, site: QuantizableNode, value: ir.Value, form: WeightFormat) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None
        x = site.activation_value
        scales = form.scales(read_weight(tensor), None if x is None else self._options.power.get(str(x.name)))
        scales = round_scales(scales, self._options.floats)
        shape = ir.Shape(tensor.shape.numpy())
        name = f"{value.name}_{form.dtype.name.lower()}"

        def convert() -> ir.TensorProtocol:
            return ir.Tensor(form.quantize(read_weight(tensor), scales), dtype=form.dtype, shape=shape, name=name)

        lazy = ir.LazyTensor(convert, dtype=form.dtype, shape=shape, name=name)
        inputs = [new_initializer(self._graph, name, lazy), new_initializer(self._graph, f"{name}_scale", scales)]
        node = ir.node("DequantizeLinear", inputs, form.attributes, name=f"{name}/DequantizeLinear", version=OPSET)
        self._name(node, value, f"{value.name}_dequantized_{form.dtype.name.lower()}", ir.DataType.FLOAT)
        self._graph.insert_before(self._graph[0], node)
        return node.outputs[0]

    def _activation(self, value: ir.Value) -> ir.Value:
        assert value.name is not None
        if value.name not in self._activations:
            rounded = self._new_activation(value, value.name)
            self._activations |= {value.name: rounded, str(rounded.name): rounded}
        return self._activations[value.name]

    def _new_activation(self, value: ir.Value, name: str) -> ir.Value:
        if name not in self._options.ranges:
            raise ConfigError(
                f"quantization: got no range of {name!r}, expected one for every activation that is quantized; "
                f"calibrate again"
            )
        parameters = [
            new_initializer(self._graph, f"{name}_{part}", array)
            for part, array in zip(("scale", "zero_point"), self._parameters(self._options.ranges[name]), strict=True)
        ]
        round_ = ir.node("QuantizeLinear", [value, *parameters], name=f"{name}/QuantizeLinear", version=OPSET)
        self._name(round_, value, f"{name}_quantized", parameters[1].dtype)
        back = ir.node(
            "DequantizeLinear", [round_.outputs[0], *parameters], name=f"{name}/DequantizeLinear", version=OPSET
        )
        self._name(back, value, f"{name}_dequantized", ir.DataType.FLOAT)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], (round_, back))
        else:
            self._graph.insert_after(producer, (round_, back))
        return back.outputs[0]

    def _parameters(self, limits: Range) -> tuple[NDArray[Any], NDArray[Any]]:
        """Scale and zero point of an activation, two scalars. Zero itself is always a number of the grid."""
        low, high = min(limits[0], 0.0), max(limits[1], 0.0)
        dtype = _ACTIVATIONS[str(self._options.activations)]
        width = {
            ir.DataType.UINT8: (high - low) / 255,
            ir.DataType.INT8: max(-low, high) / 127,
            ir.DataType.FLOAT8E4M3FN: max(-low, high) / _LARGEST_FP8,
        }[dtype]
        scale = round_scales(np.array(width or 1.0, np.float32), self._options.floats)
        zero = round(-low / float(scale)) if dtype == ir.DataType.UINT8 else 0
        return scale, np.array(min(zero, 255)).astype(dtype.numpy())

    def _name(self, node: ir.Node, like: ir.Value, name: str, dtype: ir.DataType | None) -> None:
        output = node.outputs[0]
        assert dtype is not None
        output.name, output.type, output.shape = name, ir.TensorType(dtype), like.shape
