"""Splits group normalisation into operators that ONNX Runtime's CPU has kernels for."""

import logging

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from diffoundry.targets.graph_edit import new_initializer, replace, static

__all__ = ["SplitGroupNorm"]

logger = logging.getLogger(__name__)


class SplitGroupNorm(ir.passes.InPlacePass):
    """Replaces GroupNormalization by InstanceNormalization and BatchNormalization.

    Given:
        %y = GroupNormalization<num_groups=32>(%x, %scale, %bias)          # float32
    Result:
        %r = Reshape(%x, [0, 32, -1])
        %n = Reshape(InstanceNormalization(%r, ones, zeros), Shape(%x))
        %y = BatchNormalization<epsilon=0>(%n, %scale, %bias, zeros, ones)

    ONNX Runtime has no CPU kernel for GroupNormalization and computes its definition, in eleven passes over the tensor.
    BatchNormalization of mean 0 and variance 1 is the scale and bias in one pass. Together with the SiLU that follows
    it takes 0.43 of the time at (2, 320, 64, 64).
    Half precision stays as it is: the definition keeps its sums in float32, InstanceNormalization would not.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every GroupNormalization in float32."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "GroupNormalization" and node.domain == "":
                reason = _rewrite(node, model)
                if reason is not None:
                    logger.debug("%s stays: %s", node.name, reason)
                modified |= reason is None
        return ir.passes.PassResult(model, modified)


def _rewrite(node: ir.Node, model: ir.Model) -> str | None:
    """Rewrite `node`, or say why not."""
    x, scale, bias = node.inputs
    channels, groups = static(x, 1), node.attributes.get_int("num_groups", 0)
    if x is None or x.dtype != ir.DataType.FLOAT:
        return "it is not float32"
    if channels is None or static(scale, 0) != channels:
        return "its scale is not one number a channel"

    def filled(number: float, size: int) -> ir.Value:
        return new_initializer(
            model.graph, f"{'ones' if number else 'zeros'}_{size}", np.full(size, number, np.float32)
        )

    builder = tape.Tape()
    target = new_initializer(model.graph, f"groups_{groups}", np.array([0, groups, -1], np.int64))
    grouped = builder.op("Reshape", [x, target])
    epsilon = {"epsilon": node.attributes.get_float("epsilon", 1e-5)}
    normal = builder.op("InstanceNormalization", [grouped, filled(1, groups), filled(0, groups)], epsilon)
    normal = builder.op("Reshape", [normal, builder.op("Shape", [x])])
    statistics = [filled(0, channels), filled(1, channels)]
    result = builder.op("BatchNormalization", [normal, scale, bias, *statistics], {"epsilon": 0.0})
    replace(node.outputs[0], result, builder.nodes)
    return None
