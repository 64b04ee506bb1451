"""Sums of products: matrix products and convolutions, with weights that may be compressed."""

from typing import Any

import numpy as np
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.translation import Translation, Var, shape_of

__all__ = ["conv", "conv_limits", "gemm", "gemm_limits", "matmul", "matmul_limits"]

_LARGEST_LINEAR_RANK = 3
"""The reference gives `linear` tensors of rank 1 to 3."""


def matmul(t: Translation, node: ir.Node) -> Var:
    """MatMul; with a constant matrix on the right it is a linear layer."""
    left, right = node.inputs
    assert left is not None
    assert right is not None
    weight = (
        t.weight(right, node) if len(shape_of(right)) == 2 and len(shape_of(left)) <= _LARGEST_LINEAR_RANK else None
    )
    if weight is None:
        return mb.matmul(x=t.var(left), y=t.var(right))
    return mb.linear(x=t.var(left), weight=t.emit(weight.transposed()))


def matmul_limits(node: ir.Node, _opset: Any) -> str | None:
    """Refuse products of vectors."""
    if any(len(shape_of(value)) < 2 for value in node.inputs):
        return "multiplies a vector, expected matrices"
    return None


def gemm(t: Translation, node: ir.Node) -> Var:
    """Gemm: a linear layer."""
    left, right, *rest = node.inputs
    assert right is not None
    transposed = bool(node.attributes.get_int("transB", 0))
    weight = t.weight(right, node)
    if weight is None:
        product = mb.matmul(x=t.var(left), y=t.var(right), transpose_y=transposed)
    else:
        product = mb.linear(x=t.var(left), weight=t.emit(weight if transposed else weight.transposed()))
    return product if not rest or rest[0] is None else mb.add(x=product, y=t.var(rest[0]))


def gemm_limits(node: ir.Node, _opset: Any) -> str | None:
    """Refuse a Gemm that is not a linear layer."""
    attributes = node.attributes
    if attributes.get_int("transA", 0) or any(attributes.get_float(name, 1.0) != 1 for name in ("alpha", "beta")):
        return "has transA, alpha or beta, expected a plain linear layer"
    return None


def conv(t: Translation, node: ir.Node) -> Var:
    """Conv, of one or two spatial axes."""
    x, kernel, *rest = node.inputs
    assert kernel is not None
    weight = t.weight(kernel, node)
    assert weight is not None, f"{node.name}: its kernel is computed"
    axes = len(shape_of(x)) - 2
    pads = node.attributes.get_ints("pads", (0,) * (2 * axes))
    pairs = np.asarray(pads).reshape(2, axes).T  # ONNX: all begins, then all ends; MIL: begin and end of each axis
    return mb.conv(
        x=t.var(x),
        weight=t.emit(weight),
        bias=None if not rest or rest[0] is None else t.var(rest[0]),
        strides=list(node.attributes.get_ints("strides", (1,) * axes)),
        pad_type="custom",
        pad=pairs.reshape(-1).tolist(),
        dilations=list(node.attributes.get_ints("dilations", (1,) * axes)),
        groups=node.attributes.get_int("group", 1),
    )


def conv_limits(node: ir.Node, _opset: Any) -> str | None:
    """Constant kernels, explicit padding, one or two axes."""
    if len(shape_of(node.inputs[0])) not in (3, 4):
        return "has three or more spatial axes, expected one or two"
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "leaves the padding to auto_pad, expected explicit pads"
    kernel = node.inputs[1]
    maker = None if kernel is None else kernel.producer()
    if kernel is None or (kernel.const_value is None and (maker is None or maker.op_type != "DequantizeLinear")):
        return "computes its kernel, expected a constant"
    return None
