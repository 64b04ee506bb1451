"""Table of the ONNX operators and their translations to MIL."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.operators import (
    attention,
    elementwise,
    images,
    indexing,
    normalization,
    products,
    quantized,
    shapes,
)
from diffoundry.targets.coreml.build.translation import Translation, Var

__all__ = ["OPERATORS", "Operator"]

Translate = Callable[[Translation, ir.Node], "Var | tuple[Var, ...] | None"]
Limits = Callable[[ir.Node, Any], str | None]


def _no_limits(_node: ir.Node, _opset: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Operator:
    """Translation of one ONNX operator.

    Attributes:
        translate: Adds it to the program; gives its outputs, or None when it noted them itself.
        limits: Why a node of a pinned graph cannot be taken for a deployment target, or None when it can.
    """

    translate: Translate
    limits: Limits = _no_limits


OPERATORS: Mapping[str, Operator] = {
    "Abs": Operator(elementwise.unary(mb.abs)),
    "Add": Operator(elementwise.binary(mb.add)),
    "ArgMax": Operator(indexing.argmax, indexing.argmax_limits),
    "Attention": Operator(attention.attention, attention.attention_limits),
    "AveragePool": Operator(images.average_pool, images.pool_limits),
    "Cast": Operator(elementwise.cast),
    "Clip": Operator(elementwise.clip),
    "Concat": Operator(shapes.concat),
    "Conv": Operator(products.conv, products.conv_limits),
    "ConvTranspose": Operator(products.conv_transpose, products.conv_transpose_limits),
    "Cos": Operator(elementwise.unary(mb.cos)),
    "CumSum": Operator(indexing.cumsum, indexing.cumsum_limits),
    "DepthToSpace": Operator(images.depth_to_space, images.depth_to_space_limits),
    "DequantizeLinear": Operator(quantized.dequantize, quantized.dequantize_limits),
    "Div": Operator(elementwise.binary(mb.real_div)),
    "Einsum": Operator(products.einsum, products.einsum_limits),
    "Equal": Operator(elementwise.binary(mb.equal)),
    "Erf": Operator(elementwise.unary(mb.erf)),
    "Exp": Operator(elementwise.unary(mb.exp)),
    "Expand": Operator(shapes.expand),
    "Flatten": Operator(shapes.reshape),
    "Gather": Operator(indexing.gather),
    "GatherND": Operator(indexing.gather_nd),
    "Gelu": Operator(elementwise.gelu),
    "Gemm": Operator(products.gemm, products.gemm_limits),
    "GreaterOrEqual": Operator(elementwise.binary(mb.greater_equal)),
    "GroupNormalization": Operator(normalization.group_norm, normalization.group_norm_limits),
    "Identity": Operator(elementwise.identity),
    "LayerNormalization": Operator(normalization.layer_norm, normalization.layer_norm_limits),
    "LeakyRelu": Operator(elementwise.leaky_relu),
    "Log": Operator(elementwise.logarithm),
    "LogSoftmax": Operator(elementwise.log_softmax),
    "MatMul": Operator(products.matmul, products.matmul_limits),
    "MaxPool": Operator(images.max_pool, images.pool_limits),
    "Mul": Operator(elementwise.binary(mb.mul)),
    "Neg": Operator(elementwise.negate),
    "Pad": Operator(shapes.pad, shapes.pad_limits),
    "Pow": Operator(elementwise.power),
    "QuantizeLinear": Operator(quantized.quantize, quantized.quantize_limits),
    "RMSNormalization": Operator(normalization.rms_norm, normalization.rms_norm_limits),
    "Reciprocal": Operator(elementwise.reciprocal),
    "ReduceL2": Operator(normalization.reduction(mb.reduce_l2_norm), normalization.reduction_limits),
    "ReduceMean": Operator(normalization.reduction(mb.reduce_mean), normalization.reduction_limits),
    "ReduceSum": Operator(normalization.reduction(mb.reduce_sum), normalization.reduction_limits),
    "Relu": Operator(elementwise.unary(mb.relu)),
    "Reshape": Operator(shapes.reshape),
    "Resize": Operator(images.resize, images.resize_limits),
    "Sigmoid": Operator(elementwise.unary(mb.sigmoid)),
    "Sin": Operator(elementwise.unary(mb.sin)),
    "Slice": Operator(shapes.slices, shapes.slice_limits),
    "Softmax": Operator(elementwise.softmax),
    "Split": Operator(shapes.split),
    "Sqrt": Operator(elementwise.unary(mb.sqrt)),
    "Squeeze": Operator(shapes.squeeze),
    "Sub": Operator(elementwise.binary(mb.sub)),
    "Tanh": Operator(elementwise.unary(mb.tanh)),
    "Transpose": Operator(shapes.transpose),
    "Unsqueeze": Operator(shapes.unsqueeze),
    "Where": Operator(elementwise.where),
}
