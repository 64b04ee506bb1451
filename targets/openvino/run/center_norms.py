"""Subtracts an element from what is normalised, so that normalisation keeps variances that are tiny beside the mean."""

from typing import Any

import numpy as np

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import constant, new_constant, nodes_of, replace, sizes

__all__ = ["center_norms"]


def center_norms(model: ov.Model) -> int:
    """Let normalisation in float32 begin with a difference, and return how many nodes were changed.

    Given:
        y = GroupNormalization(x, scale, bias)          # x: (B, C, ...)
        y = MVN(x, axes)                                # of layers and instances
    Result:
        g = Reshape(x, [B, groups, -1])
        y = Reshape(MVN(g - g_0, 2), shape of x) * scale + bias     # g_0: the first element of each group
        y = MVN(x - x_0, axes)

    The plugin itself writes a GroupNormalization of free sizes as 12 nodes, which compute the shape of the groups one
    axis at a time. These are 8. Each node of free sizes costs a call some microseconds.

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
        if node.get_type_name() == "GroupNormalization":
            if sizes(x)[1] is None:
                continue
            replace(node.output(0), _group_norm(node, x, name))
        else:
            first = _first(node, x, name)
            if first is None:
                continue
            node.input(0).replace_source_output(_difference(x, first, name))
        count += 1
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _group_norm(node: ov.Node, x: ov.Output, name: str) -> ov.Output:
    """Return the normalisation of groups, as rows of a matrix for each image."""
    attributes = node.get_attributes()
    rows = np.array([0, attributes["num_groups"], -1])
    groups = _named(ops.reshape(x, new_constant(rows, f"{name}/rows"), True), f"{name}/groups")
    centred = _difference(groups, _slice(groups, [2], name), name)
    axis = new_constant(np.array([2]), f"{name}/axis")
    normal = _named(ops.mvn(centred, axis, True, attributes["epsilon"], "inside_sqrt"), f"{name}/normal")
    restored = _named(ops.reshape(normal, _named(ops.shape_of(x), f"{name}/shape"), False), f"{name}/restored")
    scale, bias = (
        _of_channels(node.input_value(index), x, f"{name}/{word}") for index, word in ((1, "scale"), (2, "bias"))
    )
    scaled = _named(ops.multiply(restored, scale), f"{name}/scaled")
    return _named(ops.add(scaled, bias), f"{name}/sum")


def _of_channels(value: ov.Output, x: ov.Output, name: str) -> ov.Output:
    """Return numbers of each channel in a shape that is spread over x, (1, C, 1, ...)."""
    shape = np.array([1, -1] + [1] * (len(sizes(x)) - 2))
    return _named(ops.reshape(value, new_constant(shape, f"{name} shape"), False), name)


def _difference(x: ov.Output, first: ov.Output, name: str) -> ov.Output:
    return _named(ops.subtract(x, first), f"{name}/centred")


def _named(node: ov.Node, name: str) -> ov.Output:
    """Return the output of a node with a name of its own, which the cache of compiled models asks for."""
    node.set_friendly_name(name)
    output: ov.Output = node.output(0)
    return output


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
    return _named(ops.slice(x, *numbers, numbers[1], new_constant(np.array(axes), f"{name}/axes")), f"{name}/first")
