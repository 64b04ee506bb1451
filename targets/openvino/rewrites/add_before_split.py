"""Adds the 1 of a scale before it is split off, where OpenVINO would crash."""

import numpy as np

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import constant, new_constant, nodes_of, replace, sizes, sole_user, source

__all__ = ["add_before_split"]


def add_before_split(model: ov.Model) -> int:
    """Move the addition of 1 to a scale in front of the Split that separates it from its shift; return the number.

    Given:
        scale, shift = Split(embedding, 2)
        y = Add(Multiply(GroupNormalization(x), Add(scale, 1)), shift)
    Result:
        scale, shift = Split(Add(embedding, [1 ... 1, 0 ... 0]), 2)
        y = Add(Multiply(GroupNormalization(x), scale), shift)

    The numbers are the same. OpenVINO 2026.4 merges both operands of the Multiply into one kernel where all sizes are
    fixed, and the process ends with a segmentation fault.
    """
    count = 0
    for node in nodes_of(model, "Add"):
        for index in (0, 1):
            split = source(node, index, "Split", "VariadicSplit")
            if split is not None and _is_scale(node, index, split) and _move(node, split):
                count += 1
                break
    return count


def _is_scale(addition: ov.Node, index: int, split: ov.Node) -> bool:
    """Return True if an addition adds 1 to the first of two parts, for a product alone."""
    one, part = constant(addition.input_value(1 - index)), split.output(0)
    return (
        one is not None
        and one.size == 1
        and one.item() == 1
        and split.get_output_size() == 2
        and addition.input_value(index) == part
        and sole_user(part, "Add") is not None
        and sole_user(addition.output(0), "Multiply") is not None
    )


def _move(addition: ov.Node, split: ov.Node) -> bool:
    """Add to what is split; False where the sizes of the parts are open."""
    whole, axis = split.input_value(0), constant(split.input_value(1))
    rank = len(sizes(whole))
    if axis is None:
        return False
    place = int(axis.item()) % rank
    lengths = [sizes(part)[place] for part in split.outputs()]
    if None in lengths:
        return False
    first, second = lengths
    numbers = np.concatenate([np.ones(first or 0, np.float32), np.zeros(second or 0, np.float32)])
    shape = [1] * rank
    shape[place] = numbers.size
    name = addition.get_friendly_name()
    total = ops.add(whole, new_constant(numbers.reshape(shape), f"{name}/ones"))
    total.set_friendly_name(name)
    split.input(0).replace_source_output(total.output(0))
    replace(addition.output(0), split.output(0), rename=False)
    return True
