"""Stores a model's floats as halves, but for those that no half can stand for."""

from collections.abc import Iterator

from diffoundry.targets.openvino.nodes import constant, new_constant, replace
from diffoundry.targets.openvino.vendor import compress_model_transformation, ov

__all__ = ["store_halves"]


def store_halves(model: ov.Model) -> None:
    """Store constants as halves with a Convert behind each, in place; what angles are made of stays float32.

    OpenVINO's own compression takes the frequencies of the timestep embedding along: their rounding, 2^-11 of each,
    times a timestep of 999 is half a radian.
    """
    kept = {node.get_friendly_name(): node.data.copy() for node in _behind_angles(model)}
    compress_model_transformation(model)
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if name in kept and node.get_type_name() == "Convert" and constant(node.input_value(0)) is not None:
            replace(node.output(0), new_constant(kept[name], name))
    model.validate_nodes_and_infer_types()


def _behind_angles(model: ov.Model) -> Iterator[ov.Node]:
    """The float32 constants that sines and cosines are computed from."""
    waiting = [node for node in model.get_ordered_ops() if node.get_type_name() in ("Sin", "Cos")]
    seen: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.f32:
            yield node
        waiting += [value.get_node() for value in node.input_values()]
