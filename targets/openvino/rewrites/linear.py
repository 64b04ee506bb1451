"""Linear layers of an `openvino.Model`: found behind a value, changed in place, or copied in part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import constant, sizes, source
from diffoundry.targets.openvino.streamed_constants import derived_constant, joined_constant

__all__ = ["Change", "Linear", "join"]

Array = npt.NDArray[np.generic]

Change = Callable[[Array, float], Array]
"""Function of an array with channels along axis 0 and of the value of new channels: 0, or 1 in a scale."""

_ARITHMETIC = ("Convert", "Multiply", "Subtract")


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """y = x W^T + b, with a constant W, or one that is a quantized constant and its scale.

    Attributes:
        matmul: The product.
        add: The addition of the bias, or None.
    """

    matmul: ov.Node
    add: ov.Node | None

    @classmethod
    def behind(cls, output: ov.Output) -> Self | None:
        """The layer whose result `output` is, or None. Its product has no other reader than its addition."""
        node, add = output.get_node(), None
        if node.get_type_name() == "Add":
            add, bias = node, constant(node.input_value(1))
            inner = source(node, 0, "MatMul")
            if inner is None or bias is None or len(inner.output(0).get_target_inputs()) != 1:
                return None
            if bias.size != sizes(output)[-1] or bias.shape[-1] != bias.size:
                return None
            node = inner
        if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
            return None
        weight = node.input_value(1)
        return cls(matmul=node, add=add) if len(sizes(weight)) == 2 and _is_constant(weight) else None

    @property
    def x(self) -> ov.Output:
        """The input, (..., inputs)."""
        return self.matmul.input_value(0)

    @property
    def y(self) -> ov.Output:
        """The result, (..., outputs)."""
        return (self.add or self.matmul).output(0)

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return sizes(self.matmul.input_value(1))[self.output_axis] or 0

    @property
    def weight(self) -> Array | None:
        """W as (outputs, inputs), not copied, or None when it is quantized."""
        weight = constant(self.matmul.input_value(1))
        return weight if weight is None or self.output_axis == 0 else weight.T

    @property
    def bias(self) -> Array | None:
        """b, (outputs,), or None."""
        bias = None if self.add is None else constant(self.add.input_value(1))
        return None if bias is None else bias.reshape(-1)

    @property
    def output_axis(self) -> int:
        """The axis of the weight that its output channels are along: 0 or 1."""
        return 0 if self.matmul.get_attributes()["transpose_b"] else 1

    def change_outputs(self, change: Change) -> None:
        """Change the output channels of weight and bias; the shapes of the model are not inferred again."""
        weight = _changed(self.matmul.input_value(1), change, self.output_axis, self.outputs)
        if self.add is not None:
            bias = _changed(self.add.input_value(1), change, len(sizes(self.y)) - 1, self.outputs)
            self.add.input(1).replace_source_output(bias)
        self.matmul.input(1).replace_source_output(weight)

    def change_inputs(self, change: Change) -> None:
        """Change the input channels of the weight; the shapes of the model are not inferred again."""
        weight, axis = self.matmul.input_value(1), 1 - self.output_axis
        self.matmul.input(1).replace_source_output(_changed(weight, change, axis, sizes(weight)[axis] or 0))

    def copy(self, change: Change, name: str) -> ov.Output:
        """The result of a second layer like this one, with its output channels changed.

        Args:
            change: Such as a slice.
            name: Its friendly name.
        """
        weight = _changed(self.matmul.input_value(1), change, self.output_axis, self.outputs)
        node = ops.matmul(self.x, weight, False, self.output_axis == 0)
        if self.add is not None:
            node.set_friendly_name(f"{name}/MatMul")
            node = ops.add(node, _changed(self.add.input_value(1), change, len(sizes(self.y)) - 1, self.outputs))
        node.set_friendly_name(name)
        return node.output(0)


def join(linears: Sequence[Linear], name: str) -> ov.Output | None:
    """The results of layers with one input side by side along the last axis, or None when their weights differ in kind.

    Args:
        linears: At least one.
        name: The friendly name of the result.
    """
    first = linears[0]
    axis, outputs = first.output_axis, [linear.outputs for linear in linears]
    if any(linear.output_axis != axis for linear in linears):
        return None
    weight = _joined([linear.matmul.input_value(1) for linear in linears], axis, outputs)
    if weight is None:
        return None
    node = ops.matmul(first.x, weight, False, axis == 0)
    biases = [linear.bias for linear in linears]
    if any(bias is not None for bias in biases):
        kind = node.get_element_type().to_dtype()
        rows = [np.zeros(one, kind) if bias is None else bias for one, bias in zip(outputs, biases, strict=True)]
        shape = (1,) * (len(sizes(first.y)) - 1) + (-1,)
        node.set_friendly_name(f"{name}/MatMul")
        bias = derived_constant(rows, lambda *parts: np.concatenate(parts).reshape(shape), f"{name}/bias")
        node = ops.add(node, bias)
    node.set_friendly_name(name)
    return node.output(0)


def _joined(values: Sequence[ov.Output], axis: int, outputs: Sequence[int]) -> ov.Output | None:
    """Weights one after the other along `axis`, through the arithmetic that decompresses them, or None."""
    nodes = [value.get_node() for value in values]
    kind = nodes[0].get_type_name()
    if any(node.get_type_name() != kind or node.get_element_type() != nodes[0].get_element_type() for node in nodes):
        return None
    if kind == "Constant":
        arrays = [np.asarray(constant(value)) for value in values]
        if all(array.ndim > axis and array.shape[axis] == size for array, size in zip(arrays, outputs, strict=True)):
            joined = f"{nodes[0].get_friendly_name()}/joined"
            return joined_constant(arrays, axis, joined)
        return values[0] if all(np.array_equal(array, arrays[0]) for array in arrays) else None
    inputs = [
        _joined([node.input_value(index) for node in nodes], axis, outputs) for index in range(len(nodes[0].inputs()))
    ]
    return None if None in inputs else _arithmetic(nodes[0], inputs)


def _is_constant(output: ov.Output) -> bool:
    node = output.get_node()
    if node.get_type_name() == "Constant":
        return bool(node.get_element_type().bitwidth >= 8)  # NumPy has no view of less
    return node.get_type_name() in _ARITHMETIC and all(_is_constant(value) for value in node.input_values())


def _changed(output: ov.Output, change: Change, axis: int, size: int, fill: float = 0.0) -> ov.Output:
    """`output` with `change` done along `axis`, through the arithmetic that decompresses a quantized weight."""
    node, array = output.get_node(), constant(output)
    if array is not None:
        if array.ndim <= axis or array.shape[axis] != size:
            return output  # one scale for all channels
        return derived_constant(
            [array],
            lambda numbers: np.moveaxis(change(np.moveaxis(numbers, axis, 0), fill), 0, axis),
            node.get_friendly_name(),
        )
    scale = 1.0 if node.get_type_name() == "Multiply" else 0.0
    fills = [fill, scale][: len(node.inputs())]
    return _arithmetic(
        node,
        [_changed(value, change, axis, size, own) for value, own in zip(node.input_values(), fills, strict=True)],
    )


def _arithmetic(node: ov.Node, inputs: Sequence[ov.Output]) -> ov.Output:
    """The result of an operation like `node` on other inputs."""
    if node.get_type_name() == "Convert":
        made = ops.convert(inputs[0], node.get_attributes()["destination_type"])
    else:
        made = {"Multiply": ops.multiply, "Subtract": ops.subtract}[node.get_type_name()](*inputs)
    made.set_friendly_name(node.get_friendly_name())
    output: ov.Output = made.output(0)
    return output
