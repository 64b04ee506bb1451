"""Joins many small linear layers of one input into one."""

import numpy as np

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import consumers, replace, sole_user
from diffoundry.targets.openvino.rewrites.linear import Linear, join

__all__ = ["join_linears"]

_FEWEST = 4
"""Layers of one input from which on it pays: query, key and value are not enough, for their results have many rows."""


def join_linears(model: ov.Model) -> int:
    """Compute all linear layers of one input at once, where there are many, and return how many were joined.

    Given:
        y1 = Add(MatMul(x, W1), b1) ... y22 = Add(MatMul(x, W22), b22)
    Result:
        y1 ... y22 = VariadicSplit(Add(MatMul(x, W), b), axis=-1)          # W: those of all, one below the other

    For the projections of the time embedding, one or two rows each, and of the prompt, 77 rows: with so few rows a
    product takes as long as its weights take to arrive, and one large product asks for them in time.
    """
    count = 0
    for node in model.get_ordered_ops():
        for output in node.outputs():
            linears = _readers(output)
            if len(linears) >= _FEWEST and _rewrite(output, linears):
                count += len(linears)
    return count


def _readers(x: ov.Output) -> list[Linear]:
    """The linear layers that read `x`, in an order that does not change from run to run."""
    found = []
    for node in consumers(x):
        if node.get_type_name() != "MatMul" or node.input_value(0) != x:
            continue
        add = sole_user(node.output(0), "Add")
        linear = (Linear.behind(add.output(0)) if add is not None else None) or Linear.behind(node.output(0))
        if linear is not None:
            found.append(linear)
    return sorted(found, key=lambda linear: linear.y.get_node().get_friendly_name())


def _rewrite(x: ov.Output, linears: list[Linear]) -> bool:
    name = f"{x.get_node().get_friendly_name()}/projections"
    joined = join(linears, name)
    if joined is None:
        return False
    parts = ops.variadic_split(joined, np.int64(-1), np.array([linear.outputs for linear in linears]))
    parts.set_friendly_name(f"{name}/Split")
    for linear, part in zip(linears, parts.outputs(), strict=True):
        replace(linear.y, part, rename=False)
    return True
