"""Replaces OpenVINO's attention by our own kernel when a model is loaded; never written to disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import constant, replace, sizes, sole_user, source
from diffoundry.targets.openvino.rewrites.linear import Change, Linear

__all__ = [
    "AttentionSize",
    "attention_lengths",
    "holds_native_attention",
    "is_faster_by_rule",
    "native_model",
    "use_native_attention",
]

_OPERATION = "DiffoundryAttention"

_WIDEST = 256
_LONG = 2048
"""Queries from which on it pays in fp32: 4096 take two thirds of OpenVINO's time, 1024 all of it. In bf16 all pay."""

_FLOATS = {"bf16": ov.Type.bf16, "fp16": ov.Type.f16, "fp32": ov.Type.f32}


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSize:
    """Sizes of one attention.

    Attributes:
        queries: Number of queries; None where it is not fixed.
        keys: Number of keys; None where it is not fixed.
        heads: Number of heads.
        width: Width of a head of query and key, as the model has it.
        value_width: Width of a head of the value.
        narrow: Both widths without the zeros at their ends, which our kernel does not compute.
    """

    queries: int | None
    keys: int | None
    heads: int
    width: int
    value_width: int
    narrow: tuple[int, int]


Lengths = Mapping[str, tuple[int | None, int | None]]
"""Name of an attention to the numbers of its queries and keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attention:
    """Attention between values (batch, tokens, heads * width).

    Attributes:
        name: Name of OpenVINO's node.
        inputs: Query, key and value.
        output: Its replacement.
        heads: Number of heads.
        scale: Of the scores.
    """

    name: str
    inputs: tuple[ov.Output, ov.Output, ov.Output]
    output: ov.Output
    heads: int
    scale: float

    def size(self, lengths: Lengths) -> AttentionSize:
        """Return its sizes; lengths that the model leaves open are those of `lengths`."""
        width, value_width = (size // self.heads for value in self.inputs[1:] if (size := sizes(value)[2]) is not None)
        own = [sizes(value)[1] for value in self.inputs[:2]]
        queries, keys = (one or other for one, other in zip(own, lengths.get(self.name, (None, None)), strict=True))
        return AttentionSize(
            queries=queries,
            keys=keys,
            heads=self.heads,
            width=width,
            value_width=value_width,
            narrow=_narrow_widths(self) or (width, value_width),
        )

    @property
    def linears(self) -> list[Linear]:
        """The layers that make query, key and value and the one that reads the output; [] if another reads those."""
        reader = sole_user(self.output, "MatMul")
        found = [*(Linear.behind(value) for value in self.inputs), reader and Linear.behind(reader.output(0))]
        alone = all(len(value.get_target_inputs()) == 1 for value in self.inputs)
        return [linear for linear in found if linear is not None] if alone and None not in found else []


def use_native_attention(
    model: ov.Model,
    library: Path,
    *,
    floats: str,
    choose: Callable[[AttentionSize], bool] | None = None,
    lengths: Lengths | None = None,
) -> int:
    """Let our kernel compute attention without a mask, and return how many attentions were changed.

    Given:
        q = Transpose(Reshape(x, [0, 0, 8, 40]), [0, 2, 1, 3])      # k, v alike; k perhaps times a number
        y = Reshape(Transpose(ScaledDotProductAttention(q, k, v, 0), [0, 2, 1, 3]), [0, 0, 320])
    Result:
        y = Convert(DiffoundryAttention(Convert(x_q), Convert(x_k), Convert(x_v)), f32)

    The plugin would hand float32 to an operation that it does not know, whatever it computes the others in; the
    Converts to `floats` keep bfloat16 as it is.

    Args:
        model: Changed in place. It can then be compiled by a `Core` that `library` was added to.
        library: Result of `diffoundry.runtime.native.attention_library`.
        floats: Type in which the plugin computes: "bf16", "fp16" or "fp32".
        choose: Returns True for the attentions to change; None changes those of `is_faster_by_rule`.
        lengths: Result of `attention_lengths` for the sizes for which the model is to be fast.
    """
    choose = choose or partial(is_faster_by_rule, floats=floats)
    found = [
        attention
        for node in model.get_ordered_ops()
        if node.get_type_name() == "ScaledDotProductAttention" and (attention := _match(node)) is not None
        if choose(attention.size(lengths or {}))
    ]
    for attention in found:
        _narrow(attention)
        _rewrite(attention, library, _FLOATS[floats])
    if found:
        model.validate_nodes_and_infer_types()
    return len(found)


def is_faster_by_rule(size: AttentionSize, *, floats: str) -> bool:
    """Return True where our kernel was faster on the machines that it was written on; unknown numbers are large."""
    return floats == "bf16" or size.queries is None or size.queries >= _LONG


def attention_lengths(model: ov.Model) -> dict[str, tuple[int | None, int | None]]:
    """Return the numbers of queries and keys of the attentions of a model, by their names."""
    return {
        node.get_friendly_name(): (sizes(node.input_value(0))[2], sizes(node.input_value(1))[2])
        for node in model.get_ops()
        if node.get_type_name() == "ScaledDotProductAttention" and len(sizes(node.input_value(1))) == 4
    }


def native_model(size: AttentionSize, library: Path, floats: str) -> ov.Model:
    """Return a model of one attention by our kernel, of inputs (1, tokens, heads * width) in float32."""
    width, value_width = size.narrow
    inputs = [
        ops.parameter([1, length, size.heads * own], np.float32)
        for length, own in ((size.queries, width), (size.keys, width), (size.keys, value_width))
    ]
    values = [_converted(one.output(0), _FLOATS[floats], f"input{index}") for index, one in enumerate(inputs)]
    attributes = {"heads": size.heads, "scale": np.float32(width**-0.5).item()}
    node = _factory(library).create(_OPERATION, values, attributes)
    return ov.Model([ops.result(_converted(node.output(0), ov.Type.f32, "output"))], inputs, "native")


def holds_native_attention(model: ov.Model) -> bool:
    """Return True if our kernel computes anything in a model."""
    return any(node.get_type_name() == _OPERATION for node in model.get_ops())


def _match(node: ov.Node) -> _Attention | None:
    scale = _scale(node)
    splits = [_split_heads(node.input_value(index)) for index in range(3)]
    join = _joined_heads(node.output(0))
    if scale is None or join is None or None in splits:
        return None
    reshapes, factors = zip(*(split for split in splits if split is not None), strict=True)
    shapes = [sizes(reshape.output(0))[2:] for reshape in reshapes]
    heads, width = shapes[0]
    if heads is None or width is None or shapes[1] != (heads, width) or shapes[2][0] != heads:
        return None
    value_width = shapes[2][1]
    if value_width is None or any(size % 8 or size > _WIDEST for size in (width, value_width)):
        return None
    query, key, value = (reshape.input_value(0) for reshape in reshapes)
    if factors[2] != 1.0:
        return None
    return _Attention(
        name=node.get_friendly_name(),
        inputs=(query, key, value),
        output=join,
        heads=heads,
        scale=(scale or width**-0.5) * factors[0] * factors[1],
    )


def _scale(node: ov.Node) -> float | None:
    """The factor of the scores, 0 when it is the usual one, or None when the attention masks something."""
    if node.get_attributes()["causal"]:
        return None
    extra = [constant(value) for value in node.input_values()[3:]]
    if any(array is None or array.size != 1 for array in extra):
        return None
    numbers = [float(array.item()) for array in extra if array is not None]
    if numbers and numbers[0] != 0.0:
        return None
    return numbers[1] if len(numbers) > 1 else 0.0


def _split_heads(value: ov.Output) -> tuple[ov.Node, float] | None:
    """The Reshape to (batch, tokens, heads, width) behind a value (batch, heads, tokens, width), and its factor."""
    node, factor = value.get_node(), 1.0
    if node.get_type_name() == "Multiply":
        number = constant(node.input_value(1))
        if number is None or number.size != 1:
            return None
        node, factor = node.input_value(0).get_node(), float(number.item())
    if node.get_type_name() != "Transpose" or not _swaps_middle(node):
        return None
    reshape = source(node, 0, "Reshape")
    if reshape is None or len(sizes(reshape.input_value(0))) != 3:
        return None
    return reshape, factor


def _joined_heads(value: ov.Output) -> ov.Output | None:
    """The Reshape to (batch, tokens, heads * width) after a value (batch, heads, tokens, width)."""
    transpose = sole_user(value, "Transpose")
    if transpose is None or not _swaps_middle(transpose):
        return None
    reshape = sole_user(transpose.output(0), "Reshape")
    if reshape is None or len(sizes(reshape.output(0))) != 3:
        return None
    output: ov.Output = reshape.output(0)
    return output


def _swaps_middle(transpose: ov.Node) -> bool:
    order = constant(transpose.input_value(1))
    return order is not None and order.tolist() == [0, 2, 1, 3]


def _narrow(attention: _Attention) -> None:
    """Take the zeros out of the heads that only OpenVINO's own kernel likes there (`rewrites.widen_heads`)."""
    widths = _narrow_widths(attention)
    if widths is None:
        return
    query, key, value, reader = attention.linears
    inner, outer = widths
    for linear, width in ((query, inner), (key, inner), (value, outer)):
        linear.change_outputs(_narrowed(attention.heads, width))
    reader.change_inputs(_narrowed(attention.heads, outer))


def _narrow_widths(attention: _Attention) -> tuple[int, int] | None:
    """Return the widths of heads of key and value without zeros at their ends; None where they stay as they are."""
    if not attention.linears:
        return None
    query, key, value, _ = attention.linears
    return max(_filled(linear, attention.heads) for linear in (query, key)), _filled(value, attention.heads)


def _filled(linear: Linear, heads: int) -> int:
    """Return the width of a head without the zeros at its end, as a multiple of 8."""
    width = linear.outputs // heads
    weight, bias = _stored(linear.matmul.input_value(1)), linear.bias
    if weight is None:
        return width
    used = weight.any(axis=1 if linear.matmul.get_attributes()["transpose_b"] else 0).reshape(heads, width)
    if bias is not None:
        used |= bias.reshape(heads, width) != 0
    return -(-(int(np.flatnonzero(used.any(axis=0)).max(initial=0)) + 1) // 8) * 8


def _stored(output: ov.Output) -> npt.NDArray[np.generic] | None:
    """The array behind a constant, though it is stored as halves; None when it is quantized."""
    inner = source(output.get_node(), 0, "Constant") if output.get_node().get_type_name() == "Convert" else None
    return constant(output if inner is None else inner.output(0))


def _narrowed(heads: int, width: int) -> Change:
    def change(array: np.ndarray, fill: float) -> np.ndarray:  # noqa: ARG001  # nothing is filled up
        return array.reshape(heads, -1, *array.shape[1:])[:, :width].reshape(heads * width, *array.shape[1:])

    return change


def _rewrite(found: _Attention, library: Path, floats: ov.Type) -> None:
    before, name = found.output.get_element_type(), found.output.get_node().get_friendly_name()
    inputs = [_converted(value, floats, f"{name}/input{index}") for index, value in enumerate(found.inputs)]
    attributes = {"heads": found.heads, "scale": np.float32(found.scale).item()}
    node = _factory(library).create(_OPERATION, inputs, attributes)
    node.set_friendly_name(f"{name}/native")
    replace(found.output, _converted(node.output(0), before, name))


def _converted(value: ov.Output, to: ov.Type, name: str) -> ov.Output:
    """The value in another type. Names are given, since OpenVINO's own count up and its cache of models heeds them."""
    if value.get_element_type() == to:
        return value
    node = ops.convert(value, to.get_type_name())
    node.set_friendly_name(name)
    return node.output(0)


@cache
def _factory(library: Path) -> Any:
    factory = ov.utils.node_factory.NodeFactory()
    factory.add_extension(str(library))
    return factory
