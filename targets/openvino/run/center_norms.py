"""Subtracts an element from what is normalised, so that normalisation keeps variances that are tiny beside the mean."""

from typing import Any

import numpy as np

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import constant, new_constant, nodes_of, sizes

__all__ = ["center_norms"]


def center_norms(model: ov.Model) -> int:
    """Let normalisation in float32 begin with a difference, and return how many nodes were changed.

    Given:
        y = GroupNormalization(x, scale, bias)          # or MVN(x, axes), of layers and instances
    Result:
        y = GroupNormalization(x - x_0, scale, bias)    # x_0: the first element of each group

    The difference leaves mean and variance of the rest as they are. It is 0 in a constant group, whose result is then
    exactly the bias: the rounded mean of equal numbers is not that number, and 1 / sqrt(epsilon) makes much of it.
    Not for bfloat16: the sum of equal numbers of 8 bits is exact, and the difference would be rounded.
    """
    count = 0
    for node in nodes_of(model, "GroupNormalization", "MVN"):
        x = node.input_value(0)
        if x.get_element_type() != ov.Type.f32 or x.get_partial_shape().rank.is_dynamic:
            continue
        name = node.get_friendly_name()
        first = (
            _first_of_groups(node, x, name) if node.get_type_name() == "GroupNormalization" else _first(node, x, name)
        )
        if first is None:
            continue
        centred = ops.subtract(x, first)
        centred.set_friendly_name(f"{name}/centred")
        node.input(0).replace_source_output(centred.output(0))
        count += 1
    return count


def _first_of_groups(node: ov.Node, x: ov.Output, name: str) -> ov.Output | None:
    """Return the first element of the group of each channel, (B, C, 1, ...)."""
    channels, groups = sizes(x)[1], node.get_attributes()["num_groups"]
    if channels is None:
        return None
    corner = _slice(x, range(2, len(sizes(x))), name)
    size = channels // groups
    index = new_constant(np.arange(channels) // size * size, f"{name}/channels")
    gathered = ops.gather(corner, index, new_constant(np.array(1), f"{name}/axis"))
    gathered.set_friendly_name(f"{name}/first of group")
    return gathered.output(0)


def _first(node: ov.Node, x: ov.Output, name: str) -> ov.Output | None:
    """Return the first element along the axes of an MVN."""
    axes = _whole_numbers(node.input_value(1))
    return None if axes is None else _slice(x, axes, name)


def _whole_numbers(value: ov.Output) -> list[int] | None:
    """Return the numbers behind a constant, or behind a Range of constants, as the importer writes a layer's axes."""
    if value.get_node().get_type_name() == "Range":
        bounds = [constant(bound) for bound in value.get_node().input_values()]
        return (
            list(range(*(int(bound.item()) for bound in bounds if bound is not None)))
            if all(bound is not None for bound in bounds)
            else None
        )
    array = constant(value)
    return None if array is None else [int(number) for number in array.reshape(-1)]


def _slice(x: ov.Output, axes: Any, name: str) -> ov.Output:
    count = len(axes)
    numbers = [new_constant(np.full(count, number), f"{name}/{number}") for number in (0, 1)]
    node = ops.slice(x, *numbers, numbers[1], new_constant(np.array(axes), f"{name}/axes"))
    node.set_friendly_name(f"{name}/first")
    return node.output(0)
