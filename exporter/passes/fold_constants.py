"""Evaluates parts of a graph that are known at build time: constants, shape arithmetic, casts, sequences."""

import onnx_ir as ir
from onnxscript.optimizer import fold_constants_ir

from diffoundry.targets.graph_edit import constant

__all__ = ["FoldConstants"]

_INPUT_LIMIT = 1 << 17
"""Largest input in elements: lets a causal mask fold, leaves weights alone."""

_OUTPUT_LIMIT = 1 << 20
"""Largest result in elements: keeps a folded Expand or Range from growing the file."""

_VECTOR_LIMIT = 1 << 16
"""Largest number of channels of a constant that is written out."""


class FoldConstants(ir.passes.InPlacePass):
    """Evaluates nodes whose inputs are known, and propagates symbolic shapes.

    Given:
        %n = Squeeze(Shape<start=1, end=2>(%x))               # %x: [batch, 77]
        %r = Range(0, %n, 1)
    Result:
        %r = initializer [0, 1, ..., 76]

    onnxscript's folder does the work. It also turns SplitToSequence with SequenceAt into Split, and CastLike into Cast.
    Its own rules leave ConstantOfShape, as of the scale of a normalization that has none, for it may make files larger.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold until a sweep over the graph changes nothing."""
        result = fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=_INPUT_LIMIT,
            output_size_limit=_OUTPUT_LIMIT,
            should_fold=_is_vector,
        )
        return ir.passes.PassResult(model, bool(result.modified))


def _is_vector(node: ir.Node) -> bool | None:
    """Return True for a ConstantOfShape that makes one number for each channel, None for the folder's own rules."""
    if node.op_type != "ConstantOfShape":
        return None
    shape = constant(node.inputs[0])
    return True if shape is not None and shape.size == 1 and shape.reshape(-1)[0] <= _VECTOR_LIMIT else None
