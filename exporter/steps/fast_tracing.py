"""Shortcuts that make torch.export and torch.onnx.export faster and leave the traced graph as it is.

While sizes stay free, torch computes shapes and strides as formulas, several times for each tensor. A small UNet spends
nearly all of its time on them. The shortcuts use private parts of torch. If a version of torch lacks one, that shortcut
is left out.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any
from unittest import mock

import torch
from torch._dynamo import config as dynamo_config
from torch._subclasses import fake_impls

from diffoundry.exporter.passes import OPSET

__all__ = ["fast_tracing", "warm_up"]

_GROUP_NORM = torch.ops.aten.native_group_norm.default
_LAYER_NORM = torch.ops.aten.native_layer_norm.default


def warm_up() -> None:
    """Make the table of ONNX translations, for a process that is about to fork."""
    for _, name, make in _replacements():
        if name == "from_torchlib":
            make(opset_version=OPSET)


@contextmanager
def fast_tracing() -> Iterator[None]:
    """Within this context, torch traces and translates with the shortcuts of this module.

    * Normalizations take their output's shape from the input. Torch would trace their arithmetic.
    * The cache of shapes is off. With free sizes it costs more than computing the shapes.
    * Type promotion uses the types that torch.export has found. Torch would run the program again.
    * The table of ONNX translations is made once in a process.
    """
    with ExitStack() as stack:
        stack.enter_context(dynamo_config.patch(fake_tensor_cache_enabled=False))
        table = getattr(fake_impls, "FAST_OP_IMPLEMENTATIONS", None)
        if table is not None:
            fake_impls.get_fast_op_impls()
            stack.enter_context(mock.patch.dict(table, {_GROUP_NORM: _group_norm, _LAYER_NORM: _layer_norm}))
        for owner, name, replacement in _replacements():
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def _group_norm(
    mode: Any, x: torch.Tensor, _weight: Any, _bias: Any, batch: Any, *sizes: Any
) -> tuple[torch.Tensor, ...]:
    """Shapes of `native_group_norm`: output, mean and reciprocal deviation."""
    groups = sizes[2]
    with mode:
        return torch.empty_like(x), x.new_empty((batch, groups)), x.new_empty((batch, groups))


def _layer_norm(mode: Any, x: torch.Tensor, axes: Any, *_others: Any) -> tuple[torch.Tensor, ...]:
    """Shapes of `native_layer_norm`: output, mean and reciprocal deviation."""
    kept = (*x.shape[: x.ndim - len(axes)], *(1 for _ in axes))
    with mode:
        return torch.empty_like(x), x.new_empty(kept), x.new_empty(kept)


def _replacements() -> list[tuple[Any, str, Any]]:
    """Owner, attribute and replacement of functions of torch's ONNX exporter."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
        from torch.onnx._internal.fx.passes.type_promotion import _TypePromotionInterpreter
    except ImportError:
        return []
    make = partial(_registry, ONNXRegistry.from_torchlib)
    return [(_TypePromotionInterpreter, "run_node", _promote), (ONNXRegistry, "from_torchlib", make)]


@cache
def _registry(make: Callable[..., Any], opset_version: int) -> Any:
    """Make the table from torch's operators to functions that write ONNX. Exports only read it."""
    return make(opset_version=opset_version)


def _promote(interpreter: Any, node: torch.fx.Node) -> Any:
    """Promote the arguments of a node, and return the value that torch.export or the promotion has recorded."""
    from torch.onnx._internal.fx.passes.type_promotion import get_type_promotion_rule

    with interpreter._set_current_node(node):  # noqa: SLF001  # torch's own
        if rule := get_type_promotion_rule(node, interpreter.type_promotion_table):
            interpreter._maybe_promote_node(node, rule)  # noqa: SLF001  # torch's own
    if "val" in node.meta:
        return node.meta["val"]
    return torch.fx.Interpreter.run_node(interpreter, node)
