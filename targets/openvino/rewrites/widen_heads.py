"""Widens the heads of self-attention to the width of the matrix unit."""

from dataclasses import dataclass

import numpy as np

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import constant, new_constant, nodes_of, sizes, sole_user, source
from diffoundry.targets.openvino.rewrites.linear import Change, Linear

__all__ = ["widen_heads"]

_INPUTS, _OUTPUTS = 32, 16
"""bf16 numbers in a row of an AMX tile, of which one product sums up as many; and float32 numbers, its results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attention:
    """Self-attention of a model: its projections and the Reshapes between them and the heads."""

    inputs: tuple[Linear, Linear, Linear]
    splits: tuple[ov.Node, ov.Node, ov.Node]
    join: ov.Node
    output: Linear
    heads: int
    width: int


def widen_heads(model: ov.Model) -> int:
    """Fill the heads of self-attention up with zeros, and return how many attentions were changed.

    Given:
        q = Transpose(Reshape(MatMul(x, Wq), [0, 0, 8, 40]))               # k, v alike
        y = MatMul(Reshape(Transpose(ScaledDotProductAttention(q, k, v)), [0, 0, 320]), Wo)
    Result:
        q = Transpose(Reshape(MatMul(x, Wq'), [0, 0, 8, 64]))              # Wq': 24 rows of zeros after every 40
        a = ScaledDotProductAttention(q, Multiply(k, 40 ** -0.5), v, 0, scale = 1)
        y = MatMul(Reshape(Transpose(a), [0, 0, 384]), Wo')                # v is filled up to 48 only

    The products with zeros are the same products. In bf16 with AMX, at 4096 tokens of 8 heads, it takes 0.82 of the
    time: the kernel handles a rest of 8 numbers a row slowly. The factor is applied to the key to keep the plugin from
    merging its transposes into one, which at this width takes a sixth of the attention's time.
    """
    count = 0
    for node in nodes_of(model, "ScaledDotProductAttention"):
        found = _match(node)
        if found is not None and found.width % _INPUTS:
            _rewrite(node, found)
            count += 1
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _match(node: ov.Node) -> _Attention | None:
    splits = [_split_heads(node.input_value(index)) for index in range(3)]
    join = _joined_heads(node.output(0))
    if None in splits or join is None:
        return None
    query, key, value = (split for split in splits if split is not None)
    linears = [Linear.behind(split.input_value(0)) for split in (query, key, value)]
    output = _reader(join.output(0))
    if None in linears or output is None:
        return None
    first, second, third = (linear for linear in linears if linear is not None)
    heads, width = sizes(query.output(0))[2:]
    alone = all(len(linear.y.get_target_inputs()) == 1 for linear in (first, second, third))
    same = first.x == second.x == third.x and all(
        sizes(split.output(0))[2:] == (heads, width) for split in (key, value)
    )
    if not alone or not same or heads is None or width is None:
        return None
    return _Attention(
        inputs=(first, second, third), splits=(query, key, value), join=join, output=output, heads=heads, width=width
    )


def _split_heads(value: ov.Output) -> ov.Node | None:
    """The Reshape to (batch, tokens, heads, width) behind a value (batch, heads, tokens, width)."""
    transpose = value.get_node()
    if transpose.get_type_name() != "Transpose" or not _swaps_middle(transpose):
        return None
    reshape = source(transpose, 0, "Reshape")
    return reshape if reshape is not None and constant(reshape.input_value(1)) is not None else None


def _joined_heads(value: ov.Output) -> ov.Node | None:
    """The Reshape to (batch, tokens, heads * width) after a value (batch, heads, tokens, width)."""
    transpose = sole_user(value, "Transpose")
    if transpose is None or not _swaps_middle(transpose):
        return None
    reshape = sole_user(transpose.output(0), "Reshape")
    return reshape if reshape is not None and constant(reshape.input_value(1)) is not None else None


def _swaps_middle(transpose: ov.Node) -> bool:
    order = constant(transpose.input_value(1))
    return order is not None and order.tolist() == [0, 2, 1, 3]


def _reader(value: ov.Output) -> Linear | None:
    """The only linear layer that reads a value, perhaps quantized in between."""
    quantize = sole_user(value, "FakeQuantize")
    matmul = sole_user(value if quantize is None else quantize.output(0), "MatMul")
    return None if matmul is None else Linear.behind(matmul.output(0))


def _rewrite(attention: ov.Node, found: _Attention) -> None:
    inner, outer = (-(-found.width // unit) * unit for unit in (_INPUTS, _OUTPUTS))
    for linear, split, width in zip(found.inputs, found.splits, (inner, inner, outer), strict=True):
        linear.change_outputs(_widened(found.heads, found.width, width))
        _set_shape(split, found.heads, width)
    _set_shape(found.join, found.heads * outer)
    found.output.change_inputs(_widened(found.heads, found.width, outer))
    name = attention.get_friendly_name()
    zero, one = (new_constant(np.array(number, np.float32), f"{name}/{number}") for number in (0, 1))
    given = constant(attention.input_value(4)) if len(attention.inputs()) > 4 else None
    scale = new_constant(np.array(found.width**-0.5 if given is None else given, np.float32), f"{name}/scale")
    query, key, value = attention.input_values()[:3]
    attention.set_arguments([query, ops.multiply(key, scale).output(0), value, zero, one])


def _set_shape(reshape: ov.Node, *last: int) -> None:
    shape = new_constant(np.array([0, 0, *last]), f"{reshape.get_friendly_name()}/shape")
    reshape.input(1).replace_source_output(shape)


def _widened(heads: int, width: int, wider: int) -> Change:
    def change(array: np.ndarray, fill: float) -> np.ndarray:
        by_head = array.reshape(heads, width, *array.shape[1:])
        extra = [(0, 0), (0, wider - width), *((0, 0) for _ in array.shape[1:])]
        return np.pad(by_head, extra, constant_values=fill).reshape(heads * wider, *array.shape[1:])

    return change
