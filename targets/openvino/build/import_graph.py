"""Reads a portable graph as OpenVINO's converter does, in half the memory."""

from pathlib import Path

from diffoundry.runtime.engines.memory import give_back
from diffoundry.targets.openvino.import_openvino import offline, ops, ov
from diffoundry.targets.openvino.nodes import nodes_of, replace, transposed
from diffoundry.targets.openvino.streamed_constants import StreamedConstants, derived_constant

__all__ = ["import_graph"]


def import_graph(path: Path, streamed: StreamedConstants | None = None) -> ov.Model:
    """Import a graph with `openvino.convert_model`; the weights of linear layers are transposed first, one at a time.

    The converter turns them too, from inputs x outputs to outputs x inputs, but holds all of them twice meanwhile: the
    new ones, and the pages of the mapped file.

    Args:
        path: The graph.
        streamed: Takes the large constants over; None leaves them in memory.
    """
    model = ov.Core().read_model(path)
    if streamed is not None:
        streamed.take_over(model)
    for node in nodes_of(model, "MatMul"):
        _turn_weight(node)
    offline.apply_moc_transformations(model, cf=False, smart_reshape=True)
    offline.compress_quantize_weights_transformation(model)
    offline.apply_moc_legacy_transformations(model, [])
    offline.apply_fused_names_cleanup(model)
    for node in nodes_of(model, "Constant"):
        if len(node.shape) > 2 and node.get_element_type() == ov.Type.f32:  # still mapped, and read to be compared
            give_back(node.data.ctypes.data, node.data.nbytes)
    return model


def _turn_weight(node: ov.Node) -> None:
    weight, flags = node.input_value(1).get_node(), node.get_attributes()
    if weight.get_type_name() != "Constant" or flags["transpose_b"] or weight.get_element_type() != ov.Type.f32:
        return
    if len(weight.shape) != 2 or len(weight.output(0).get_target_inputs()) != 1:
        return
    data = weight.data
    turned = derived_constant([data], transposed, weight.get_friendly_name())
    product = ops.matmul(node.input_value(0), turned, flags["transpose_a"], True)
    product.output(0).set_names(node.output(0).get_names())
    replace(node.output(0), product.output(0))
    give_back(data.ctypes.data, data.nbytes)
