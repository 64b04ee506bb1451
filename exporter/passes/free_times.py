"""Lets the prelude of a partitioned network take a timestep for each row of its batch."""

import onnx
import onnx_ir as ir

from diffoundry.exporter.passes.graph_parts import GraphPart
from diffoundry.runtime.engines.part_names import TIMES, TIMESTEPS

__all__ = ["free_times"]

_ROWS = 6
"""Rows with which the shapes are checked; no size of a network divides by it and is small."""

_OTHERS = 5
"""Value of every other free size in that check."""


def free_times(part: GraphPart) -> bool:
    """Give the timestep of a part the size of the batch, where its shapes allow it; change nothing elsewhere.

    Given:
        %e = Gemm(Sin(%timestep[1]), %w); %o = Add(%e[1, D], %pooled[batch, D])
    Result:
        %e = Gemm(Sin(%timestep[timesteps]), %w); %o = Add(%e, %pooled[batch, D])
    A loop then computes all timesteps of its schedule in one call, whose rows are timesteps times images.

    Returns:
        True if the part was changed.
    """
    graph = part.model.graph
    time = next((value for value in graph.inputs if value.name in TIMESTEPS), None)
    if time is None or time.shape is None or tuple(time.shape) != (1,) or not _keeps_rows(part.model, str(time.name)):
        return False
    time.shape = ir.Shape([TIMES])
    after = {time}
    for node in graph:
        if any(value in after for value in node.inputs):
            after.update(node.outputs)
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape = None  # had one row
                elif value.shape is not None and value.shape[0] == 1:
                    value.shape = ir.Shape([TIMES, *value.shape[1:]])
    return True


def _keeps_rows(model: ir.Model, time: str) -> bool:
    """Return whether each output has the rows of the batch, with as many timesteps."""
    proto = ir.to_proto(model)
    for value in proto.graph.input:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if value.name == time or (place == 0 and dim.dim_param == "batch"):
                dim.dim_value = _ROWS
            elif not dim.HasField("dim_value"):
                dim.dim_value = _OTHERS
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return False
    dims = [value.type.tensor_type.shape.dim for value in inferred.graph.output]
    return all(len(one) > 0 and one[0].dim_value == _ROWS for one in dims)
