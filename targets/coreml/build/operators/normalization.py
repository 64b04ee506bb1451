"""Normalisation layers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.operators.elementwise import plain_like
from diffoundry.targets.coreml.build.translation import Translation, Var, is_read, shape_of

__all__ = [
    "epsilon_of",
    "group_norm",
    "group_norm_limits",
    "layer_norm",
    "layer_norm_limits",
    "reduction",
    "reduction_limits",
    "rms_norm",
    "rms_norm_limits",
]

_SMALLEST_HALF = 2.0**-24


def layer_norm(t: Translation, node: ir.Node) -> Var:
    """LayerNormalization."""
    x = t.var(node.inputs[0])
    rank = len(shape_of(node.inputs[0]))
    axis = node.attributes.get_int("axis", -1) % rank
    scale, bias = [*node.inputs[1:], None][:2]
    axes = list(range(axis, rank))
    return mb.layer_norm(
        x=_centred(x, shape_of(node.inputs[0]), axes),
        axes=axes,
        gamma=t.var(scale),
        beta=None if bias is None else t.var(bias),
        epsilon=epsilon_of(node, x),
    )


def layer_norm_limits(node: ir.Node, _opset: Any) -> str | None:
    """Constant scale and bias, one output."""
    if any(value is not None and value.const_value is None for value in node.inputs[1:]):
        return "computes its scale or bias, expected constants"
    if is_read(node.outputs[1:]):
        return "gives mean or deviation, expected the normalised values only"
    return None


def rms_norm(t: Translation, node: ir.Node) -> Var:
    """RMSNormalization; the squares of halves, which overflow, are summed in float32.

    Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """
    x = t.var(node.inputs[0])
    rank = len(shape_of(node.inputs[0]))
    axes = list(range(node.attributes.get_int("axis", -1) % rank, rank))
    half = x.is_tensor_or_scalar_of(dtype="fp16")
    wide = mb.cast(x=x, dtype="fp32") if half else x
    squares = mb.reduce_mean(x=mb.mul(x=wide, y=wide), axes=axes, keep_dims=True)
    normal = mb.mul(x=wide, y=mb.rsqrt(x=squares, epsilon=epsilon_of(node, wide)))
    return mb.mul(x=mb.cast(x=normal, dtype="fp16") if half else normal, y=t.var(node.inputs[1]))


def rms_norm_limits(node: ir.Node, _opset: Any) -> str | None:
    """Constant scale."""
    return layer_norm_limits(node, _opset)


def reduction(op: Any) -> Callable[[Translation, ir.Node], Var]:
    """Translate an operator over axes, such as ReduceL2 (the length of vectors) and ReduceMean."""

    def translate(t: Translation, node: ir.Node) -> Var:
        axes = t.array(node.inputs[1])
        assert axes is not None
        keep = bool(node.attributes.get_int("keepdims", 1))
        return op(x=t.var(node.inputs[0]), axes=[int(axis) for axis in axes], keep_dims=keep)

    return translate


def reduction_limits(node: ir.Node, _opset: Any) -> str | None:
    """Constant axes."""
    if len(node.inputs) < 2 or node.inputs[1] is None or node.inputs[1].const_value is None:
        return "computes its axes or names none, expected constants"
    return None


def group_norm(t: Translation, node: ir.Node) -> Var:
    """GroupNormalization as instance normalisation of the groups, and a factor and a summand for each channel.

    These are a `batch_norm` of mean 0 and variance 1. Ranks stay at four, which is what the Neural Engine is laid out
    for: (B, groups, channels of a group, everything else).
    """
    x = t.var(node.inputs[0])
    batch, channels, *axes = shape_of(node.inputs[0])
    groups = node.attributes.get_int("num_groups", 1)
    grouped = [batch, groups, channels // groups, int(np.prod(axes))]
    split = _centred(mb.reshape(x=x, shape=grouped), grouped, [2, 3])
    normal = mb.reshape(x=mb.instance_norm(x=split, epsilon=epsilon_of(node, x)), shape=[batch, channels, *axes])
    scale, bias = (t.var(value) for value in node.inputs[1:3])
    return mb.batch_norm(
        x=normal,
        mean=plain_like(x, np.zeros(channels)),
        variance=plain_like(x, np.ones(channels)),
        gamma=scale,
        beta=bias,
        epsilon=plain_like(x, 0),
    )


def _centred(x: Var, shape: Sequence[int], axes: Sequence[int]) -> Var:
    """Return the difference to the first element along `axes`, in float32: exactly 0 where all are equal.

    Half precision stays as it is: sums of equal halves are exact in wider accumulators, and the difference would be
    rounded.
    """
    if x.is_tensor_or_scalar_of(dtype="fp16"):
        return x
    size = [1 if axis in axes else int(length) for axis, length in enumerate(shape)]
    return mb.sub(x=x, y=mb.slice_by_size(x=x, begin=[0] * len(size), size=size))


def group_norm_limits(node: ir.Node, opset: Any) -> str | None:
    """Constant scale and bias."""
    return layer_norm_limits(node, opset)


def epsilon_of(node: ir.Node, x: Var) -> Any:
    """The node's epsilon in the type of `x`; it must not become zero in half precision."""
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return plain_like(x, max(epsilon, _SMALLEST_HALF))
