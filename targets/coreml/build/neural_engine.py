"""Transformer blocks in the layout of the Neural Engine: tokens as (B, C, 1, S), linear layers as convolutions.

apple/ml-stable-diffusion computes so throughout; its reasons are in "Deploying Transformers on the Apple Neural
Engine", https://machinelearning.apple.com/research/neural-engine-transformers, Principle 1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.operators.attention import head_count, mask_of, scale_of, split_einsum
from diffoundry.targets.coreml.build.operators.elementwise import cast_type
from diffoundry.targets.coreml.build.operators.normalization import epsilon_of
from diffoundry.targets.coreml.build.operators.shapes import slice_range
from diffoundry.targets.coreml.build.translation import Translation, Var, shape_of
from diffoundry.targets.coreml.build.weights import plain_constant

__all__ = ["in_tokens"]

InTokens = Callable[[Translation, ir.Node], "Var | tuple[Var, ...] | None"]


def in_tokens(t: Translation, node: ir.Node) -> bool:
    """Translate a node whose values are tokens, and say whether it could be done."""
    if node.op_type == "Transpose":
        return _to_columns(t, node)
    if node.op_type not in _TABLE or any(len(shape_of(value)) != 3 for value in node.outputs):
        return False
    made = _TABLE[node.op_type](t, node)
    if made is None:
        return False
    for value, var in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=False):
        t.set_tokens(value, var)
    return True


def _to_columns(t: Translation, node: ir.Node) -> bool:
    """The transpose that leads out of the tokens: (B, C, 1, S) is (B, C, S) already."""
    value = node.inputs[0]
    assert value is not None
    if not t.in_tokens(value) or node.attributes.get_ints("perm", ()) != (0, 2, 1):
        return False
    t.set(node.outputs[0], mb.squeeze(x=t.tokens(value), axes=[2]))
    return True


def _linear(t: Translation, node: ir.Node) -> Var | None:
    """MatMul with a constant matrix: a convolution with a kernel of one pixel."""
    left, right = node.inputs
    assert left is not None
    assert right is not None
    weight = t.weight(right, node) if len(shape_of(right)) == 2 else None
    if weight is None:
        return None
    return mb.conv(x=t.tokens(left), weight=t.emit(weight.transposed().as_kernel()), pad_type="valid")


def _layer_norm(t: Translation, node: ir.Node) -> Var | None:
    """LayerNormalization of the channels."""
    if node.attributes.get_int("axis", -1) not in (-1, 2):
        return None
    value = node.inputs[0]
    assert value is not None
    x = t.tokens(value)
    scale, bias = [*node.inputs[1:], None][:2]
    beta = None if bias is None else t.var(bias)
    return mb.layer_norm(x=x, axes=[1], gamma=t.var(scale), beta=beta, epsilon=epsilon_of(node, x))


def _attention(t: Translation, node: ir.Node) -> Var:
    """Attention with the heads in the channels."""
    query, key, value = (t.tokens(tensor) for tensor in node.inputs[:3] if tensor is not None)
    heads = head_count(node)
    scale = scale_of(node, width=query.shape[1] // heads)
    return split_einsum(query, key, value, heads, scale, mask_of(t, node, query))


def _unary(op: Any, **settings: Any) -> InTokens:
    def translate(t: Translation, node: ir.Node) -> Var | None:
        value = node.inputs[0]
        assert value is not None
        return op(x=t.tokens(value), **settings) if t.in_tokens(value) else None

    return translate


def _gelu(t: Translation, node: ir.Node) -> Var | None:
    tanh = node.attributes.get_string("approximate", "none") == "tanh"
    return _unary(mb.gelu, mode="TANH_APPROXIMATION" if tanh else "EXACT")(t, node)


def _cast(t: Translation, node: ir.Node) -> Var | None:
    return _unary(mb.cast, dtype=cast_type(node))(t, node)


def _binary(op: Any) -> InTokens:
    def translate(t: Translation, node: ir.Node) -> Var | None:
        shape = shape_of(node.outputs[0])
        values = [value for value in node.inputs if value is not None]
        computed = [value for value in values if value.const_value is None]
        if not any(t.in_tokens(value) for value in computed) or any(shape_of(value) != shape for value in computed):
            return None
        x, y = (t.tokens(value) if value.const_value is None else _turned(t.array(value)) for value in values)
        return op(x=x, y=y)

    return translate


def _turned(array: Any) -> npt.NDArray[Any]:
    """A constant that broadcasts to (B, S, C), so that it broadcasts to (B, C, 1, S)."""
    array = plain_constant(array)
    whole = array.reshape((1,) * (3 - array.ndim) + array.shape)
    return array if array.ndim == 0 else np.ascontiguousarray(whole.transpose(0, 2, 1)[:, :, None, :])


def _split(t: Translation, node: ir.Node) -> tuple[Var, ...] | None:
    value = node.inputs[0]
    assert value is not None
    if node.attributes.get_int("axis", 0) not in (-1, 2) or not t.in_tokens(value) or len(node.outputs) < 2:
        return None
    sizes = [shape_of(output)[2] for output in node.outputs]
    return tuple(mb.split(x=t.tokens(value), split_sizes=sizes, axis=1))


def _slice(t: Translation, node: ir.Node) -> Var | None:
    value = node.inputs[0]
    assert value is not None
    if not t.in_tokens(value):
        return None
    batch, tokens, channels = slice_range(t, node)
    ranges = (batch, channels, slice(0, 1, 1), tokens)
    return mb.slice_by_index(
        x=t.tokens(value),
        begin=[part.start for part in ranges],
        end=[part.stop for part in ranges],
        stride=[part.step for part in ranges],
    )


_TABLE: Mapping[str, InTokens] = {
    "Add": _binary(mb.add),
    "Attention": _attention,
    "Cast": _cast,
    "Div": _binary(mb.real_div),
    "Gelu": _gelu,
    "LayerNormalization": _layer_norm,
    "MatMul": _linear,
    "Mul": _binary(mb.mul),
    "Sigmoid": _unary(mb.sigmoid),
    "Slice": _slice,
    "Split": _split,
    "Sub": _binary(mb.sub),
    "Tanh": _unary(mb.tanh),
}
"""Operators of which tokens can stay in the layout; what is not here goes through (B, S, C)."""
