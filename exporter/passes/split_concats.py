"""Takes the parts of a Concat where a Split cuts them apart again."""

import logging

import onnx_ir as ir

__all__ = ["SplitConcats"]

logger = logging.getLogger(__name__)


class SplitConcats(ir.passes.InPlacePass):
    """Replaces the outputs of a Split by the inputs of the Concat before it.

    Given:
        %t = Concat<axis=1>(%a, %b)          # %a: [batch, 64], %b: [1, 64]
        %c, %d = Split<axis=1>(%t)           # %c: [batch, 64], %d: [1, 64]
    Result:
        uses of %c read %a, uses of %d read %b

    A timestep block of Stable Cascade takes several embeddings in one row. Sizes along the axis have to be equal, one
    after another, and all other sizes those of the parts.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every Split of the graph that allows it."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "Split" and node.domain == "":
                modified |= _take_parts(node)
        return ir.passes.PassResult(model, modified)


def _take_parts(node: ir.Node) -> bool:
    joined = node.inputs[0]
    concat = None if joined is None else joined.producer()
    if concat is None or concat.op_type != "Concat" or concat.domain != "":
        return False
    axes = [_positive(one.attributes.get_int("axis", 0), joined) for one in (node, concat)]
    parts = [part for part in concat.inputs if part is not None]
    if axes[0] != axes[1] or len(parts) != len(node.outputs):
        logger.debug("%s: it does not cut between the parts of %s", node.name, concat.name)
        return False
    pairs = list(zip(parts, node.outputs, strict=True))
    if not all(part.shape == output.shape and part.shape and not output.is_graph_output() for part, output in pairs):
        logger.debug("%s: its outputs have other shapes than the parts of %s", node.name, concat.name)
        return False
    for part, output in pairs:
        ir.convenience.replace_all_uses_with(output, part)
    return True


def _positive(axis: int, value: ir.Value | None) -> int | None:
    """Return an axis counted from the first; None where the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return axis % len(value.shape)
