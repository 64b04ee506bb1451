"""Rewrites a program that writes into its tensors as one that only computes new ones."""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

__all__ = ["make_functional", "writes"]

_WRITERS = {"add_", "sub_", "mul_", "div_", "neg_", "relu_", "silu_", "gelu_", "sigmoid_", "tanh_", "exp_", "clamp_"}
"""Operators that write what the operator without the last letter computes, in the same type."""


def writes(program: ExportedProgram) -> bool:
    """Tell if a program writes into one of its tensors."""
    return any(_is_mutable(node) for node in program.graph.nodes)


def _is_mutable(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def make_functional(program: ExportedProgram) -> None:
    """Replace writes by operators with a result of their own, where nothing else sees the tensor that is written.

    Args:
        program: Its graph is changed in place: of `y = x * 2; y += x`, the second becomes `y2 = y + x`.
    """
    places = {node: place for place, node in enumerate(program.graph.nodes)}
    for node in filter(_is_mutable, list(program.graph.nodes)):
        functional = _functional(node)
        written = node.args[0]
        if functional is None or not isinstance(written, Node) or not _is_own(written, node):
            continue
        for user in [user for user in written.users if places[user] > places[node]]:
            user.replace_input_with(written, node)
        node.target = functional


def _functional(node: Node) -> Any:
    """Operator that computes what a node writes into its first input, or None."""
    overload: Any = node.target
    name = overload._schema.name.removeprefix("aten::")  # noqa: SLF001  # torch's own
    dtypes = {argument.meta["val"].dtype for argument in node.all_input_nodes}
    if name not in _WRITERS or len(dtypes) > 1:
        return None
    return getattr(getattr(torch.ops.aten, name.removesuffix("_")), overload._overloadname, None)  # noqa: SLF001  # as above


def _is_own(written: Node, writer: Node) -> bool:
    """Tell if the writer is the only one to see the write: the tensor is new, and nothing else is a view of it."""
    if written.op != "call_function" or any(user.op == "output" for user in written.users):
        return False
    return not any(_is_view(node) for node in (written, *written.users) if node is not writer)


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(result.alias_info is not None for result in schema.returns)
