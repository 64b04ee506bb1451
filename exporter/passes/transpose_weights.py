"""Stores the weights of linear layers in the orientation that MatMul reads."""

import logging

import numpy as np
import onnx_ir as ir

from diffoundry.targets.graph_edit import remove_unused
from diffoundry.targets.weight_data import read_weight

__all__ = ["TransposeWeights"]

logger = logging.getLogger(__name__)


class TransposeWeights(ir.passes.InPlacePass):
    """Folds the transposition of a weight matrix; the data is read only when it is written.

    Given:
        %t = Transpose<perm=[1, 0]>(%to_q.weight)            # an initializer, (out, in)
        %y = MatMul(%x, %t)
    Result:
        %y = MatMul(%x, %to_q.weight.T)                      # an initializer, (in, out)

    The name "<parameter>.T" records the torch parameter and the change. The tracer's metadata is kept. Refitting
    weights needs both.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold every transposition of a matrix that is an initializer."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "Transpose" and node.domain == "":
                modified |= _fold(node, model.graph)
        return ir.passes.PassResult(model, modified)


def _fold(node: ir.Node, graph: ir.Graph) -> bool:
    weight = node.inputs[0]
    if weight is None or weight.const_value is None or weight.is_graph_input() or not weight.is_initializer():
        return False
    if tuple(node.attributes.get_ints("perm", (1, 0))) != (1, 0) or len(weight.const_value.shape) != 2:
        logger.debug("%s: %s is no matrix", node.name, weight.name)
        return False
    name = f"{weight.name}.T"
    if name not in graph.initializers:
        transposed = _transposed(weight.const_value, name)
        transposed.metadata_props.update(weight.metadata_props)
        graph.register_initializer(transposed)
    ir.convenience.replace_all_uses_with(node.outputs[0], graph.initializers[name], replace_graph_outputs=True)
    remove_unused(node)
    return True


def _transposed(tensor: ir.TensorProtocol, name: str) -> ir.Value:
    rows, columns = tensor.shape.numpy()

    def transpose() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(read_weight(tensor).T), name=name)

    shape = ir.Shape([columns, rows])
    lazy = ir.LazyTensor(transpose, dtype=tensor.dtype, shape=shape, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([columns, rows]), const_value=lazy)
