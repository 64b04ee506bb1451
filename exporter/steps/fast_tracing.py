"""Shortcuts that make torch.export and torch.onnx.export faster and leave the traced graph as it is.

While sizes stay free, torch computes shapes and strides as formulas, several times for each tensor. A small UNet spends
nearly all of its time on them. The shortcuts use private parts of torch. If a version of torch lacks one, that shortcut
is left out.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache, partial
from typing import Any, cast
from unittest import mock

import torch
from onnx_ir.schemas import OpSignature
from torch import fx
from torch._C import DispatchKey
from torch._dynamo import config as dynamo_config
from torch._subclasses import FakeTensor, fake_impls
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.sym_node import SymNode

from diffoundry.exporter.passes import OPSET

try:
    from torch.fx._lazy_graph_module import _use_lazy_graph_module
except ImportError:
    _use_lazy_graph_module = None  # type: ignore[assignment]

__all__ = ["fast_recording", "fast_tracing", "warm_up"]

_GROUP_NORM = torch.ops.aten.native_group_norm.default
_LAYER_NORM = torch.ops.aten.native_layer_norm.default
_GELU = torch.ops.aten.gelu.default


def warm_up() -> None:
    """Make the table of ONNX translations, for a process that is about to fork."""
    for _, name, make in _replacements():
        if name == "from_torchlib":
            make(opset_version=OPSET)


@contextmanager
def fast_tracing() -> Iterator[None]:
    """Within this context, torch traces and translates with the shortcuts of this module.

    * Normalizations and GELU take their output's shape from the input. Torch would trace their arithmetic.
    * Nodes have no stack traces and no memory format. We read neither.
    * The cache of shapes is off. With free sizes it costs more than computing the shapes.
    * Formulas of sizes are simplified and printed once each.
    * Changed graphs are compiled to Python when they run, which most never do.
    * Type promotion uses the types that torch.export has found. Torch would run the program again.
    * The table of ONNX translations, and the signatures of ONNX operators, are made once in a process.
    """
    with ExitStack() as stack:
        stack.enter_context(dynamo_config.patch(fake_tensor_cache_enabled=False))
        table = getattr(fake_impls, "FAST_OP_IMPLEMENTATIONS", None)
        if table is not None:
            fake_impls.get_fast_op_impls()
            shapes = {_GROUP_NORM: _group_norm, _LAYER_NORM: _layer_norm, _GELU: _same_shape}
            stack.enter_context(mock.patch.dict(table, shapes))
        if _use_lazy_graph_module is not None:
            stack.enter_context(_use_lazy_graph_module(should_use=True))
        if hasattr(fx.config, "do_not_emit_stack_traces"):
            stack.enter_context(mock.patch.object(fx.config, "do_not_emit_stack_traces", new=True))
        for owner, name, replacement in _replacements():
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


@contextmanager
def fast_recording() -> Iterator[None]:
    """Within this context, torch.export takes the shapes of linear layers and dropouts from their inputs.

    torch.export records these operators whole, and runs the operators within only to learn the shape. The context is
    for the recording alone, because a later decomposition records the operators within.
    """
    shapes: dict[Any, Callable[..., tuple[Any, ...]]] = {
        torch.ops.aten.linear.default: lambda x, weight, _bias=None: (*x.shape[:-1], weight.shape[0]),
        torch.ops.aten.layer_norm.default: lambda x, *_: tuple(x.shape),
        torch.ops.aten.dropout.default: lambda x, *_: tuple(x.shape),
    }
    with ExitStack() as stack:
        for operator, shape in shapes.items():
            kernel = {DispatchKey.AutogradCPU: partial(_composite, operator, shape)}
            stack.callback(operator._dispatch_cache.clear)  # noqa: SLF001  # torch's own
            stack.enter_context(mock.patch.dict(operator.py_kernels, kernel))
            operator._dispatch_cache.clear()  # noqa: SLF001  # torch's own
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


def _same_shape(mode: Any, x: torch.Tensor, **_options: Any) -> torch.Tensor:
    """Return the shape of an operator on each number alone: that of its input."""
    with mode:
        return x.new_empty(x.shape)


def _composite(operator: Any, shape: Callable[..., tuple[Any, ...]], *args: Any) -> torch.Tensor:
    """Compute a tensor of the right shape, or what torch computes where values or the inner operators are needed."""
    x = args[0]
    if isinstance(x, FakeTensor) and proxy_tensor.get_proxy_mode() is None:
        return x.new_empty(shape(*args))
    return cast("torch.Tensor", operator.decompose(*args))


def _replacements() -> list[tuple[Any, str, Any]]:
    """Owner, attribute and replacement of functions of torch's ONNX exporter."""
    try:
        from torch.fx.passes.shape_prop import _extract_tensor_metadata
        from torch.onnx._internal.exporter._registration import ONNXRegistry
        from torch.onnx._internal.fx.passes.type_promotion import _TypePromotionInterpreter
    except ImportError:
        return []
    make = partial(_registry, ONNXRegistry.from_torchlib)
    describe = partial(_extract_tensor_metadata, include_contiguity=False)
    return [
        (SymNode, "expr", property(partial(_formula, cast("Any", SymNode.expr).fget))),
        (SymNode, "str", lambda node: _printed(node.expr)),
        (OpSignature, "from_op_schema", _signature),
        (_TypePromotionInterpreter, "run_node", _promote),
        (ONNXRegistry, "from_torchlib", make),
        (proxy_tensor, "_extract_tensor_metadata", describe),
    ]


def _formula(compute: Callable[[SymNode], Any], node: SymNode) -> Any:
    """Return the formula of a size. Torch asks if it is a number before it looks into its own cache."""
    env = node.shape_env
    if env is not None:
        version = env._replacements_version_counter  # noqa: SLF001  # torch's own
        if version == 0:
            return node._expr  # noqa: SLF001  # torch's own
        if node._expr_cache is not None and node._expr_ver == version:  # noqa: SLF001  # torch's own
            return node._expr_cache  # noqa: SLF001  # torch's own
    return compute(node)


@lru_cache(maxsize=4096)
def _printed(formula: Any) -> str:
    return f"{formula}"


_signatures: dict[tuple[str, str, int], OpSignature] = {}
_make_signature = OpSignature.from_op_schema


def _signature(schema: Any) -> OpSignature:
    """Signature of an ONNX operator. Exports only read it."""
    key = schema.domain, schema.name, schema.since_version
    if key not in _signatures:
        _signatures[key] = _make_signature(schema)
    return _signatures[key]


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
