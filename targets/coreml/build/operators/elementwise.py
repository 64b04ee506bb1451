"""Elementwise operators."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.translation import Translation, Var

__all__ = [
    "binary",
    "cast",
    "cast_type",
    "clip",
    "gelu",
    "identity",
    "leaky_relu",
    "log_softmax",
    "logarithm",
    "negate",
    "plain_like",
    "power",
    "softmax",
    "unary",
    "where",
]

Translate = Callable[[Translation, ir.Node], Var]

_CASTS = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int32",
    ir.DataType.BOOL: "bool",
}


def unary(op: Any) -> Translate:
    """An operator of one input `x`."""
    return lambda t, node: op(x=t.var(node.inputs[0]))


def binary(op: Any) -> Translate:
    """An operator of two inputs that broadcast."""
    return lambda t, node: op(x=t.var(node.inputs[0]), y=t.var(node.inputs[1]))


def identity(t: Translation, node: ir.Node) -> Var:
    """Identity."""
    return t.var(node.inputs[0])


def leaky_relu(t: Translation, node: ir.Node) -> Var:
    """LeakyRelu."""
    x = t.var(node.inputs[0])
    return mb.leaky_relu(x=x, alpha=_like(x, node.attributes.get_float("alpha", 0.01)))


def negate(t: Translation, node: ir.Node) -> Var:
    """Neg."""
    x = t.var(node.inputs[0])
    return mb.mul(x=x, y=_like(x, -1))


def power(t: Translation, node: ir.Node) -> Var:
    """Pow, whose exponent ONNX allows in another type."""
    x, exponent = t.var(node.inputs[0]), t.array(node.inputs[1])
    y = t.var(node.inputs[1]) if exponent is None else plain_like(x, exponent)
    return mb.pow(x=x, y=y)


def logarithm(t: Translation, node: ir.Node) -> Var:
    """Log, without the epsilon that MIL adds."""
    x = t.var(node.inputs[0])
    return mb.log(x=x, epsilon=plain_like(x, 0.0))


def reciprocal(t: Translation, node: ir.Node) -> Var:
    """Translate Reciprocal to a division: MIL's own `inverse` adds an epsilon."""
    x = t.var(node.inputs[0])
    return mb.real_div(x=plain_like(x, 1.0), y=x)


def clip(t: Translation, node: ir.Node) -> Var:
    """Clip; a missing bound binds nothing."""
    x = t.var(node.inputs[0])
    for bound, op in zip(node.inputs[1:], (mb.maximum, mb.minimum), strict=False):
        if bound is not None:
            x = op(x=x, y=t.var(bound))
    return x


def gelu(t: Translation, node: ir.Node) -> Var:
    """Gelu, exact or by the hyperbolic tangent."""
    tanh = node.attributes.get_string("approximate", "none") == "tanh"
    return mb.gelu(x=t.var(node.inputs[0]), mode="TANH_APPROXIMATION" if tanh else "EXACT")


def softmax(t: Translation, node: ir.Node) -> Var:
    """Softmax."""
    return mb.softmax(x=t.var(node.inputs[0]), axis=node.attributes.get_int("axis", -1))


def log_softmax(t: Translation, node: ir.Node) -> Var:
    """Translate LogSoftmax so that no logarithm of 0 is taken: the largest element is subtracted first."""
    x, axes = t.var(node.inputs[0]), [node.attributes.get_int("axis", -1)]
    shifted = mb.sub(x=x, y=mb.reduce_max(x=x, axes=axes, keep_dims=True))
    total = mb.reduce_sum(x=mb.exp(x=shifted), axes=axes, keep_dims=True)  # at least 1
    return mb.sub(x=shifted, y=mb.log(x=total, epsilon=plain_like(x, 0.0)))


def cast(t: Translation, node: ir.Node) -> Var:
    """Cast; 64-bit integers are 32-bit ones in a package."""
    return mb.cast(x=t.var(node.inputs[0]), dtype=cast_type(node))


def cast_type(node: ir.Node) -> str:
    """MIL's name of the type that a Cast gives."""
    return _CASTS[ir.DataType(node.attributes.get_int("to"))]


def where(t: Translation, node: ir.Node) -> Var:
    """Translate Where to select."""
    condition, a, b = (t.var(value) for value in node.inputs)
    return mb.select(cond=condition, a=a, b=b)


def plain_like(x: Var, array: Any) -> Any:
    """A constant in the type of `x`."""
    return np.asarray(array).astype(np.float16 if x.is_tensor_or_scalar_of(dtype="fp16") else np.float32)


def _like(x: Var, number: float) -> Any:
    """A number in the type of `x`, whole or not."""
    return np.int32(number) if x.is_tensor_or_scalar_of(dtype="int32") else plain_like(x, number)
