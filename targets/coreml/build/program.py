"""Translates a graph of fixed sizes to a MIL program."""

from typing import Any

import onnx_ir as ir
from coremltools.converters.mil.mil import Function, Program, types

from diffoundry.targets.coreml.build.fix_sizes import free_dims
from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.neural_engine import in_tokens
from diffoundry.targets.coreml.build.operators import OPERATORS
from diffoundry.targets.coreml.build.translation import Style, Translation, Var, shape_of
from diffoundry.targets.coreml.names import clean_name

__all__ = ["CONDITION", "LARGEST_RANK", "make_program", "refusals"]

CONDITION = "encoder_hidden_states"
"""The denoiser's input that Apple's Swift package passes as (B, C, 1, S)."""

LARGEST_RANK = 5

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


def refusals(model: ir.Model, opset: Any) -> list[str]:
    """Why a graph cannot be translated for a deployment target, one sentence a reason; empty when it can."""
    free = free_dims(model.graph)
    if free:
        name, dims = next(iter(free.items()))
        return [
            (
                f"the dimensions {', '.join(dims)} of {name!r} are free ({len(free)} values have such), and Core ML "
                f"packages are made for one size each; fix it with --buckets, or with --batch, --height and --width"
            )
        ]
    unknown = sorted(
        {
            node.op_type if not node.domain else f"{node.domain}::{node.op_type}"
            for node in model.graph
            if node.domain or node.op_type not in OPERATORS
        }
    )
    reasons = [f"the operator {name} has no translation to Core ML" for name in unknown]
    for node in model.graph:
        if not node.domain and node.op_type in OPERATORS:
            reason = OPERATORS[node.op_type].limits(node, opset)
            if reason is not None:
                reasons.append(f"{node.op_type} {node.name!r} {reason}")
    reasons += [
        f"{value.name!r} has {len(shape_of(value))} dimensions, Core ML takes {LARGEST_RANK}"
        for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs))
        if len(shape_of(value)) > LARGEST_RANK
    ]
    return reasons


def make_program(model: ir.Model, style: Style, *, swift: bool) -> Program:
    """Translate a graph that `refusals` has nothing against.

    Floats are float32 at the edges whatever the graph computes in, as the runtime and Swift hand them over.

    Args:
        model: Pinned and folded.
        style: The ways to translate.
        swift: True if the edges are those of Apple's Swift package: every input in floats, token ids too, and the
            condition as (B, C, 1, S).
    """
    graph = model.graph
    program = Program()
    with Function(
        {_name(value): _placeholder(value, swift=swift) for value in graph.inputs}, opset_version=style.opset
    ) as function:
        translation = Translation(style)
        for value in graph.inputs:
            _enter(translation, value, function.inputs[_name(value)])
        for node in graph:
            _translate(translation, node)
        outputs: list[Var] = []
        for value in graph.outputs:
            outputs.append(_leave(translation, value, outputs))
        function.set_outputs(outputs)
    program.add_function("main", function)
    return program


def _placeholder(value: ir.Value, *, swift: bool) -> Any:
    shape = shape_of(value)
    if _is_turned(value, swift=swift):
        batch, tokens, channels = shape
        shape = (batch, channels, 1, tokens)
    return mb.placeholder(shape=shape, dtype=types.int32 if value.dtype in _INTEGERS and not swift else types.fp32)


def _is_turned(value: ir.Value, *, swift: bool) -> bool:
    return swift and value.name == CONDITION and len(shape_of(value)) == 3


def _enter(translation: Translation, value: ir.Value, var: Var) -> None:
    """Bring an input from the type and the layout of the edge to those of the graph."""
    if value.dtype in _INTEGERS and var.is_tensor_or_scalar_of(dtype="fp32"):
        var = mb.cast(x=var, dtype="int32")
    elif value.dtype == ir.DataType.FLOAT16:
        var = mb.cast(x=var, dtype="fp16")
    if len(var.shape) > len(shape_of(value)):
        translation.set_tokens(value, var)
    else:
        translation.set(value, var)


def _leave(translation: Translation, value: ir.Value, taken: list[Var]) -> Var:
    """Bring an output to the type of the edge and give it its name."""
    var = translation.var(value)
    if value.dtype == ir.DataType.FLOAT16:
        var = mb.cast(x=var, dtype="fp32")
    if var.op is None or var.val is not None or var in taken:
        var = mb.identity(x=var)
    var.name = var.op.name = _name(value)
    return var


def _translate(translation: Translation, node: ir.Node) -> None:
    if translation.style.neural_engine and in_tokens(translation, node):
        return
    made = OPERATORS[node.op_type].translate(translation, node)
    if made is None:
        return
    made = made if isinstance(made, tuple | list) else (made,)
    for value, var in zip(node.outputs, made, strict=False):
        if var.op is not None and var.val is None:
            var.name = var.op.name = clean_name(node.name or value.name or "value")
        translation.set(value, var)


def _name(value: ir.Value) -> str:
    return clean_name(value.name or "")
