"""Removes nodes that change nothing and merges neighbours that do one thing in two steps."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.pattern import MatchResult, RewriteRule
from onnxscript.rewriter.rules import common as rules

__all__ = ["MergeRedundantOps"]

_IDLE: Mapping[str, float] = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}
"""Operator to the second input with which it changes nothing."""


def _idle_rule(operator: str, idle: float) -> RewriteRule:
    """Make a rule for a number that is exactly `idle`; those of onnxscript also take 1e-15, a guard of a division."""

    def pattern(op: Any, x: Any, number: Any) -> Any:
        return getattr(op, operator)(x, number)

    def check(_context: Any, x: ir.Value, number: ir.Value, **_: Any) -> MatchResult:
        result = MatchResult()
        value = ir.convenience.get_const_tensor(number)
        if value is None or value.shape.numpy() != () or float(value.numpy()) != idle:
            result.fail(f"{operator} by another number than {idle:g}", x)
        return result

    return RewriteRule(pattern, lambda op, x, **_: op.Identity(x), check, name=f"{operator}{idle:g}")


_RULES = (
    # diffusers divides by output scale factors that are 1, and torch records the division.
    *(_idle_rule(operator, idle) for operator, idle in _IDLE.items()),
    rules.dropout_zero_rule,
    rules.dropout_inference_rule,
    # Casts to the type a value already has, and two casts in a row.
    rules.no_op_cast_rule,
    rules.cast_cast_rule,
    # Shape handling that torch's views leave.
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
)


class MergeRedundantOps(ir.passes.InPlacePass):
    """Applies onnxscript's rewrite rules that are safe for every target.

    Given:
        %a = Div(%x, 1.0)
        %b = Cast<to=FLOAT>(%a)          # %a: float32
    Result:
        %b = Identity(%x)                # the next pass removes the Identity

    Rules that bake weights into one another are left out: they would copy large initializers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply every rule once over the graph."""
        return ir.passes.PassResult(model, bool(RewritePass(_RULES)(model).modified))
