"""Cuts idle inputs out of a graph: residuals, features and image prompts of adapter networks that do not run."""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from diffoundry.runtime.models.controlnet import is_residual
from diffoundry.runtime.models.image_projection import is_image_prompt_input, is_image_prompt_scale
from diffoundry.runtime.models.t2i_adapter import is_feature

__all__ = ["drop_idle_inputs", "idle_path", "is_idle_input"]

_SAME_DATA = (
    "Cast", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "QuantizeLinear", "ReduceSum", "Reshape",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that make zeros of their first input where that is zero."""

_PRODUCTS = ("MatMul", "Mul")


def idle_path(graph: Path) -> Path:
    """Path of a graph without idle inputs: "model.idle.onnx" beside "model.onnx"."""
    return graph.with_name(f"{graph.stem}.idle.onnx")


def is_idle_input(name: str) -> bool:
    """Return whether an input of a denoiser is fed by networks that need not run."""
    return is_residual(name) or is_feature(name) or is_image_prompt_input(name)


def drop_idle_inputs(model: ir.Model, *, part: bool = False) -> tuple[str, ...]:
    """Remove the inputs that change nothing while they are zero, and return their names.

    Given:
        %a = Reshape(%block_controlnet_hidden_states_0, [0, -1, 64])
        %y = Add(%x, %a)
    Result:
        %x replaces %y; and %a where only its shape is read

    x + 0 is x for every float but -0, which becomes 0; equal numbers all the same. A sum with 0 is exact in any order,
    so that fusing it or not does not change the others either. The scale of an image prompt is 0, and so are its
    products, which are added.

    Args:
        model: Changed in place; of no use where nothing is returned.
        part: True for a part of a network, whose image prompts are read by other parts.

    Returns:
        None where the graph has no such input, or reads one in another way.
    """
    graph = model.graph
    names = {value: str(value.name) for value in graph.inputs}
    idle = [value for value, name in names.items() if is_residual(name) or is_feature(name)]
    zeros = set(idle)
    if not part:
        idle += [value for value, name in names.items() if is_image_prompt_input(name)]
        zeros |= {value for value, name in names.items() if is_image_prompt_scale(name)}
    if not idle:
        return ()
    for node in list(graph):
        if not zeros.isdisjoint(node.inputs) and node.op_type != "Shape" and not _follow(node, zeros):
            return ()
    try:
        common.TopologicalSortPass()(model)
    except ValueError:  # a term of a sum follows from the shape of the other
        return ()
    common.RemoveUnusedNodesPass()(model)
    if any(value.uses() or value.is_graph_output() for value in idle):
        return ()
    for value in idle:
        graph.inputs.remove(value)
    return tuple(str(value.name) for value in idle)


def _follow(node: ir.Node, zeros: set[ir.Value]) -> bool:
    """Remove a sum with zeros, or note that results are zero; return False for a node that does something else."""
    is_zero = [value in zeros for value in node.inputs]
    if node.op_type in ("Add", "Sub") and not all(is_zero):
        return _skip(node, is_zero.index(False)) and not (node.op_type == "Sub" and is_zero[0])
    first = node.op_type in _SAME_DATA and is_zero[0]
    if not (first or node.op_type in _PRODUCTS or (node.op_type in ("Add", "Sub", "Concat") and all(is_zero))):
        return False
    zeros.update(node.outputs)
    return not any(value.is_graph_output() for value in node.outputs)


def _skip(node: ir.Node, kept: int) -> bool:
    """Let the readers of a sum read one of its terms; return False where the other spreads it."""
    (term, zero), total = (node.inputs[kept], node.inputs[1 - kept]), node.outputs[0]
    if term is None or zero is None or total.is_graph_output():
        return False
    alike = _alike(term, zero)
    if not alike and (term.shape is None or term.shape != total.shape):
        return False
    ir.convenience.replace_all_uses_with(total, term)
    if alike:
        for use in [use for use in zero.uses() if use.node.op_type == "Shape"]:
            use.node.replace_input_with(use.idx, term)
    return True


def _alike(one: ir.Value, other: ir.Value) -> bool:
    """Return True for shapes that are equal where they are numbers."""
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return False
    pairs = zip(one.shape, other.shape, strict=True)
    return all(a == b for a, b in pairs if isinstance(a, int) or isinstance(b, int))
