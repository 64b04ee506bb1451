"""Splits the linear layer of a gated feed-forward into two layers."""

from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.nodes import constant, nodes_of, replace, sizes, sole_user
from diffoundry.targets.openvino.rewrites.linear import Change, Linear

__all__ = ["split_linears"]


def split_linears(model: ov.Model) -> int:
    """Give every part of a split linear layer a layer of its own, and return how many layers were split.

    Given:
        h = Add(MatMul(x, W), b)                      # W: (2560, 320)
        a, g = Split(h, axis=-1)
        y = Multiply(a, Gelu(g))
    Result:
        a = Add(MatMul(x, W[:1280]), b[:1280])
        y = Multiply(a, Gelu(Add(MatMul(x, W[1280:]), b[1280:])))

    The CPU plugin copies both halves of a split with a reference kernel; and it can put the Gelu into the
    second product.
    """
    count = 0
    for node in nodes_of(model, "Split"):
        if _is_along_last(node):
            linear = Linear.behind(node.input_value(0))
            if linear is not None and sole_user(linear.y, "Split") is not None:
                _rewrite(node, linear)
                count += 1
    return count


def _is_along_last(split: ov.Node) -> bool:
    axis = constant(split.input_value(1))
    return axis is not None and int(axis.reshape(())) in (-1, len(sizes(split.input_value(0))) - 1)


def _rewrite(split: ov.Node, linear: Linear) -> None:
    width = linear.outputs // len(split.outputs())
    name = split.get_friendly_name()
    for number, output in enumerate(split.outputs()):
        replace(output, linear.copy(_part(number * width, width), f"{name}.{number}"), rename=False)


def _part(start: int, width: int) -> Change:
    return lambda array, _fill: array[start : start + width]
