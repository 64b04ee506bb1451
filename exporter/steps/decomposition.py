"""Skips the second tracing of a program in torch.onnx.export, which would double the time of an export."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast
from unittest import mock

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from diffoundry.exporter.steps.functional import make_functional, writes

__all__ = ["without_decomposition"]

_CASTS = tuple(getattr(torch.ops.aten.to, name) for name in ("dtype", "device", "dtype_layout", "other"))
_ASSERTION = torch.ops.aten._assert_tensor_metadata.default  # noqa: SLF001  # an operator's name
_COPY = torch.ops.aten._to_copy.default  # noqa: SLF001  # an operator's name
_DROPOUT = torch.ops.aten.dropout.default
_SYNONYMS = {
    torch.ops.aten.max.other: torch.ops.aten.maximum.default,
    torch.ops.aten.min.other: torch.ops.aten.minimum.default,
}
_FROM_NUMBER = torch.ops.aten.rsub.Scalar
_MOVED = torch.ops.aten.movedim.int
_POOLED = torch.ops.aten.adaptive_avg_pool2d.default
_TRANSPOSED = torch.ops.aten.conv_transpose2d.input
_TRANSPOSED_DEFAULTS = (None, [1, 1], [0, 0], [0, 0], 1, [1, 1])
"""Of its arguments after input and weight: bias, stride, padding, output padding, groups, dilation."""


@contextmanager
def without_decomposition(program: ExportedProgram) -> Iterator[None]:
    """Within this context, torch.onnx.export translates the program without decomposing it.

    torch.onnx.export first calls `program.run_decompositions`, which traces the program again, operator by operator
    with symbolic sizes. Of a network made for inference it changes only casts, dropouts, assertions, subtractions from
    a number, transposed convolutions, moved axes, averages over whole images, and the smaller or larger of two tensors,
    since every other operator has a translation. Those are rewritten here, and so are writes into a tensor of which no
    view was taken. A program with other writes is left alone: only the second tracing makes it functional. For one that
    has other operators without a translation, torch.onnx.export raises here, and is to be called again outside.

    Args:
        program: Its graph is changed in place, to one that computes the same.
    """
    make_functional(program)
    if writes(program):
        yield
        return
    _rewrite(program)
    vars(program)["run_decompositions"] = lambda _table: program
    try:
        with _without_table():
            yield
    finally:
        del vars(program)["run_decompositions"]


@contextmanager
def _without_table() -> Iterator[None]:
    """Spare the table of decompositions, which is made in each export."""
    try:
        from torch.onnx._internal.exporter import _decomp
    except ImportError:
        yield
        return
    name = "create_onnx_friendly_decomposition_table"
    with mock.patch.object(_decomp, name, return_value={}) if hasattr(_decomp, name) else nullcontext():
        yield


def _rewrite(program: ExportedProgram) -> None:
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is _ASSERTION:
            graph.erase_node(node)
        elif node.target in _SYNONYMS:
            node.target = _SYNONYMS[node.target]
        elif node.target is _TRANSPOSED and not node.kwargs:
            _write_out_transposed(node)
        elif node.target is _MOVED:
            _write_out_moved(node)
        elif node.target is _POOLED and list(node.args[1]) == [1, 1]:
            node.target, node.args = torch.ops.aten.mean.dim, (node.args[0], [-1, -2], True)
        elif (result := _result(node)) is not None:
            node.replace_all_uses_with(result)
            graph.erase_node(node)
            for spec in program.graph_signature.output_specs:
                if getattr(spec.arg, "name", None) == node.name:
                    spec.arg.name = result.name
    program.graph_module.recompile()


def _result(node: Node) -> Node | None:
    """Node with the same result in operators that have a translation, or None if this one has."""
    if node.target is _DROPOUT and not node.args[2]:
        return cast("Node", node.args[0])
    if node.target is _FROM_NUMBER and len(node.args) == 2 and not node.kwargs:
        with node.graph.inserting_before(node):
            negative = node.graph.call_function(torch.ops.aten.neg.default, node.args[:1])
            result = node.graph.call_function(torch.ops.aten.add.Tensor, (negative, node.args[1]))
        negative.meta, result.meta = dict(node.meta), dict(node.meta)
        return result
    if node.target in _CASTS:
        dtype = node.meta["val"].dtype
        result = cast("Node", node.args[0])
        if result.meta["val"].dtype != dtype:
            with node.graph.inserting_before(node):
                result = node.graph.call_function(_COPY, (result,), {"dtype": dtype})
            result.meta = dict(node.meta)
        return result
    return None


def _write_out_transposed(node: Node) -> None:
    """Change a transposed convolution into the operator of all convolutions."""
    options = (*node.args[2:], *_TRANSPOSED_DEFAULTS[len(node.args) - 2 :])
    bias, stride, padding, output_padding, groups, dilation = options
    node.target = torch.ops.aten.convolution.default
    node.args = (*node.args[:2], bias, stride, padding, dilation, True, output_padding, groups)


def _write_out_moved(node: Node) -> None:
    """Change the move of one axis into a permutation of all."""
    tensor, source, place = node.args
    rank = node.meta["val"].ndim
    axes = [axis for axis in range(rank) if axis != source % rank]
    axes.insert(place % rank, source % rank)
    node.target, node.args = torch.ops.aten.permute.default, (tensor, axes)
