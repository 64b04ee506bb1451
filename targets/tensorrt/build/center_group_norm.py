"""Subtracts an element of each group in front of group normalisation in float32."""

import logging

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from diffoundry.targets.graph_edit import new_initializer, static

__all__ = ["CenterGroupNorm"]

logger = logging.getLogger(__name__)


class CenterGroupNorm(ir.passes.InPlacePass):
    """Lets GroupNormalization in float32 begin with the difference to each group's first element.

    Given:
        %y = GroupNormalization<num_groups=32>(%x, %scale, %bias)           # float32, 320 channels
    Result:
        %c = Sub(%x, Gather<axis=1>(Slice(%x, [0, 0], [1, 1], axes=[2, 3]), [0, 0, ..., 10, 10, ...]))
        %y = GroupNormalization<num_groups=32>(%c, %scale, %bias)

    The difference leaves mean and variance of the rest as they are. It is 0 in a constant group, whose result is then
    exactly its bias. Half precision stays as it is: the sums are kept in float32, where those of equal halves are
    exact, and a difference in half precision would be rounded. Never timed on a GPU.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Center every GroupNormalization in float32."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "GroupNormalization" and node.domain == "":
                reason = _center(node, model.graph)
                if reason is not None:
                    logger.debug("%s stays: %s", node.name, reason)
                modified |= reason is None
        return ir.passes.PassResult(model, modified)


def _center(node: ir.Node, graph: ir.Graph) -> str | None:
    """Center the input of `node`, or say why not."""
    x, channels, groups = node.inputs[0], static(node.inputs[0], 1), node.attributes.get_int("num_groups", 0)
    if x is None or x.dtype != ir.DataType.FLOAT:
        return "it is not float32"
    if x.shape is None or channels is None:
        return "its channels are not known"
    axes = list(range(2, len(x.shape)))
    size = channels // groups

    def vector(name: str, numbers: object) -> ir.Value:
        return new_initializer(graph, name, np.asarray(numbers, np.int64))

    builder = tape.Tape()
    count = len(axes)
    places = [vector(f"places_{number}x{count}", np.full(count, number)) for number in (0, 1)]
    corner = builder.op("Slice", [x, *places, vector(f"axes_2x{count}", axes)])
    index = vector(f"first_of_{groups}_groups_of_{size}", np.arange(channels) // size * size)
    centred = builder.op("Sub", [x, builder.op("Gather", [corner, index], {"axis": 1})])
    centred.type, centred.shape = x.type, x.shape
    for number, added in enumerate(builder.nodes):
        added.name = f"{node.name}/{added.op_type}_{number}"
        added.metadata_props.update(node.metadata_props)
    graph.insert_before(node, list(builder.nodes))
    node.replace_input_with(0, centred)
    return None
