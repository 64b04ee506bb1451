"""Sums of products: matrix products and convolutions, with weights that may be compressed."""

from typing import Any

import numpy as np
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.translation import Translation, Var, shape_of

__all__ = [
    "conv",
    "conv_limits",
    "conv_transpose",
    "conv_transpose_limits",
    "einsum",
    "einsum_limits",
    "gemm",
    "gemm_limits",
    "matmul",
    "matmul_limits",
    "windows_of",
]

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


def einsum(t: Translation, node: ir.Node) -> Var:
    """Translate Einsum of two matrices, or of two batches of them, to a product between transpositions."""
    terms, result = _equation(node)
    batch, left, summed, right = _labels(terms, result)
    x, y = (
        _turned(t.var(value), term, [*batch, *order])
        for value, term, order in zip(node.inputs, terms, ([*left, *summed], [*summed, *right]), strict=True)
    )
    return _turned(mb.matmul(x=x, y=y), "".join([*batch, *left, *right]), list(result))


def einsum_limits(node: ir.Node, _opset: Any) -> str | None:
    """Refuse sums that are no product of two matrices."""
    terms, result = _equation(node)
    letters = "".join([*terms, result])
    distinct = all(len(set(term)) == len(term) for term in (*terms, result))
    if len(terms) == 2 and letters.isalpha() and distinct:
        batch, *others = _labels(terms, result)
        known = {*batch, *(letter for part in others for letter in part)}
        if all(len(part) == 1 for part in others) and known == set(letters):
            return None
    return f"has the equation {node.attributes.get_string('equation', '')!r}, expected a product of two matrices"


def _equation(node: ir.Node) -> tuple[list[str], str]:
    """Letters of the operands' axes, and those of the result's."""
    operands, _, result = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    return operands.split(","), result


def _labels(terms: list[str], result: str) -> tuple[list[str], list[str], list[str], list[str]]:
    """Letters of the batch, of the left operand's rows, of what is summed, and of the right operand's columns."""
    left, right = terms
    shared = [letter for letter in left if letter in right]
    return (
        [letter for letter in shared if letter in result],
        [letter for letter in left if letter not in right and letter in result],
        [letter for letter in shared if letter not in result],
        [letter for letter in right if letter not in left and letter in result],
    )


def _turned(x: Var, axes: str, order: list[str]) -> Var:
    """Transpose `x`, whose axes have these letters, to another order of them."""
    perm = [axes.index(letter) for letter in order]
    return x if perm == sorted(perm) else mb.transpose(x=x, perm=perm)


def conv(t: Translation, node: ir.Node) -> Var:
    """Conv, of one or two spatial axes."""
    return _convolved(t, node, mb.conv)


def _convolved(t: Translation, node: ir.Node, op: Any) -> Var:
    x, kernel, *rest = node.inputs
    assert kernel is not None
    weight = t.weight(kernel, node)
    assert weight is not None, f"{node.name}: its kernel is computed"
    return op(
        x=t.var(x),
        weight=t.emit(weight),
        bias=None if not rest or rest[0] is None else t.var(rest[0]),
        **windows_of(node),
        dilations=list(node.attributes.get_ints("dilations", (1,) * (len(shape_of(x)) - 2))),
        groups=node.attributes.get_int("group", 1),
    )


def windows_of(node: ir.Node) -> dict[str, Any]:
    """Return strides and padding of a layer that moves a window over its input."""
    axes = len(shape_of(node.inputs[0])) - 2
    pads = node.attributes.get_ints("pads", (0,) * (2 * axes))
    pairs = np.asarray(pads).reshape(2, axes).T  # ONNX: all begins, then all ends; MIL: begin and end of each axis
    return {
        "strides": list(node.attributes.get_ints("strides", (1,) * axes)),
        "pad_type": "custom",
        "pad": pairs.reshape(-1).tolist(),
    }


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


def conv_transpose(t: Translation, node: ir.Node) -> Var:
    """ConvTranspose; the kernels of ONNX and MIL have the same axes."""
    return _convolved(t, node, mb.conv_transpose)


def conv_transpose_limits(node: ir.Node, opset: Any) -> str | None:
    """Refuse what `conv_limits` does, and an output whose size does not follow from the strides."""
    if any(node.attributes.get_ints("output_padding", ())) or "output_shape" in node.attributes:
        return "has output_padding or output_shape, expected neither"
    return conv_limits(node, opset)
