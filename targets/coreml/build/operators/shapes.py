"""Operators that change shapes and order."""

from typing import Any

import numpy as np
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.translation import Translation, Var, shape_of

__all__ = [
    "concat",
    "expand",
    "pad",
    "pad_limits",
    "reshape",
    "slice_limits",
    "slice_range",
    "slices",
    "split",
    "squeeze",
    "transpose",
    "unsqueeze",
]


def reshape(t: Translation, node: ir.Node) -> Var:
    """Reshape, Flatten: the shape is the declared one."""
    return mb.reshape(x=t.var(node.inputs[0]), shape=list(shape_of(node.outputs[0])))


def transpose(t: Translation, node: ir.Node) -> Var:
    """Transpose."""
    rank = len(shape_of(node.inputs[0]))
    return mb.transpose(
        x=t.var(node.inputs[0]), perm=list(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))
    )


def unsqueeze(t: Translation, node: ir.Node) -> Var:
    """Unsqueeze."""
    return mb.expand_dims(x=t.var(node.inputs[0]), axes=sorted(_positive(t.integers(node.inputs[1]), node.outputs[0])))


def squeeze(t: Translation, node: ir.Node) -> Var:
    """Squeeze; without axes it removes all of size one, so the declared shape says it."""
    return reshape(t, node)


def expand(t: Translation, node: ir.Node) -> Var:
    """Expand as `tile`."""
    x, wanted = t.var(node.inputs[0]), shape_of(node.outputs[0])
    shape = (1,) * (len(wanted) - len(x.shape)) + tuple(x.shape)
    if shape == wanted:
        return x
    if shape != tuple(x.shape):
        x = mb.reshape(x=x, shape=list(shape))
    return mb.tile(x=x, reps=[new // old for new, old in zip(wanted, shape, strict=True)])


def concat(t: Translation, node: ir.Node) -> Var:
    """Concat."""
    return mb.concat(values=[t.var(value) for value in node.inputs], axis=node.attributes.get_int("axis"))


def split(t: Translation, node: ir.Node) -> tuple[Var, ...]:
    """Split: the sizes are those of the declared outputs."""
    axis = node.attributes.get_int("axis", 0)
    x = t.var(node.inputs[0])
    if len(node.outputs) == 1:
        return (x,)
    return tuple(mb.split(x=x, split_sizes=[shape_of(output)[axis] for output in node.outputs], axis=axis))


def slices(t: Translation, node: ir.Node) -> Var:
    """Slice."""
    ranges = slice_range(t, node)
    return mb.slice_by_index(
        x=t.var(node.inputs[0]),
        begin=[part.start for part in ranges],
        end=[part.stop for part in ranges],
        stride=[part.step for part in ranges],
    )


def slice_limits(node: ir.Node, _opset: Any) -> str | None:
    """Constant bounds, forwards."""
    if any(value is not None and value.const_value is None for value in node.inputs[1:]):
        return "computes its bounds, expected constants"
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    if steps is not None and steps.const_value is not None and np.any(steps.const_value.numpy() < 1):
        return "goes backwards, expected steps of at least one"
    return None


def slice_range(t: Translation, node: ir.Node) -> list[slice]:
    """Return the slice of each axis that a Slice takes; bounds are within the axis."""
    shape = shape_of(node.inputs[0])
    starts, ends = t.integers(node.inputs[1]), t.integers(node.inputs[2])
    given = [*node.inputs[3:], None, None]
    axes = list(range(len(starts))) if given[0] is None else _positive(t.integers(given[0]), node.inputs[0])
    steps = [1] * len(starts) if given[1] is None else t.integers(given[1])
    ranges = [slice(0, size, 1) for size in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        ranges[axis] = slice(*slice(start, end, step).indices(shape[axis]))
    return ranges


def pad(t: Translation, node: ir.Node) -> Var:
    """Pad."""
    x = t.var(node.inputs[0])
    amounts = np.asarray(t.integers(node.inputs[1])).reshape(2, -1).T
    given = [*node.inputs[2:], None, None]
    rank = len(shape_of(node.inputs[0]))
    pairs = np.zeros((rank, 2), dtype=np.int32)
    pairs[list(range(rank)) if given[1] is None else _positive(t.integers(given[1]), node.inputs[0])] = amounts
    mode = {"edge": "replicate"}.get(name := node.attributes.get_string("mode", "constant"), name)
    value = t.array(given[0])
    number = 0.0 if value is None else float(value.reshape(()))
    kind = np.float16 if x.is_tensor_or_scalar_of(dtype="fp16") else np.float32
    return mb.pad(x=x, pad=pairs.reshape(-1).tolist(), mode=mode, constant_val=kind(number))


def pad_limits(node: ir.Node, _opset: Any) -> str | None:
    """Constant amounts that add, and the modes that MIL has."""
    amounts = node.inputs[1]
    if amounts is None or amounts.const_value is None or np.any(amounts.const_value.numpy() < 0):
        return "computes its amounts or cuts off, expected constants of at least zero"
    mode = node.attributes.get_string("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        return f"has the mode {mode!r}, expected constant, reflect or edge"
    return None


def _positive(axes: list[int], value: ir.Value | None) -> list[int]:
    rank = len(shape_of(value))
    return [axis % rank for axis in axes]
