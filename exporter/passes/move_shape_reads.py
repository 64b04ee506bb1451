"""Reads sizes of the inputs that every call has, not of those that a call may leave out."""

import onnx_ir as ir

from diffoundry.targets.idle_graph import is_idle_input

__all__ = ["MoveShapeReads"]


class MoveShapeReads(ir.passes.InPlacePass):
    """Lets a node that reads a size of an idle input read the same size of another input.

    Given:
        %n = Shape<start=2, end=3>(%down_block_additional_residual_1)      # (batch, 64, height/8, width/8)
    Result:
        %n = Shape<start=2, end=3>(%sample)                                # (batch, 4, height/8, width/8)

    torch.export reads each size of the input that it likes. What reads one of an idle input cannot run without it
    (`targets.idle_graph`).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Move what can be moved."""
        inputs = model.graph.inputs
        idle = [value for value in inputs if is_idle_input(str(value.name))]
        kept = [value for value in inputs if not is_idle_input(str(value.name))]
        modified = False
        for value in idle:
            for use in [use for use in value.uses() if use.node.op_type == "Shape"]:
                other = next((one for one in kept if _read(use.node, one) == _read(use.node, value)), None)
                if other is not None:
                    use.node.replace_input_with(use.idx, other)
                    modified = True
        return ir.passes.PassResult(model, modified)


def _read(node: ir.Node, value: ir.Value) -> tuple[tuple[int, str], ...] | None:
    """Return the axes and sizes that a Shape would read of a value; None where they are not known by name."""
    if value.shape is None:
        return None
    axes = range(len(value.shape))[slice(node.attributes.get_int("start", 0), _end(node))]
    return tuple((axis, str(value.shape[axis])) for axis in axes)


def _end(node: ir.Node) -> int | None:
    return node.attributes.get_int("end", 0) if "end" in node.attributes else None
