"""Removes nodes that change nothing and merges neighbours that do one thing in two steps."""

import onnx_ir as ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

__all__ = ["MergeRedundantOps"]

_RULES = (
    # diffusers divides by output scale factors that are 1, and torch records the division.
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.add_0_rule,
    rules.sub_0_rule,
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
