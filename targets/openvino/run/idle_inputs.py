"""Cuts idle inputs out of a model when it is loaded, as `targets.idle_graph` does it in ONNX."""

from collections.abc import Callable, Collection

from diffoundry.runtime.models.image_projection import is_image_prompt_input, is_image_prompt_scale
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.nodes import consumers, replace, sizes

__all__ = ["cut_idle_inputs", "read_without"]

_SAME_DATA = (
    "Broadcast", "Convert", "FakeQuantize", "Gather", "ReduceSum", "Reshape", "Slice", "Split", "Squeeze",
    "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit",
)  # fmt: skip
"""Operators that make zeros of their first input where that is zero."""

_PRODUCTS = ("MatMul", "Multiply")


def read_without(read: Callable[[], ov.Model], names: Collection[str]) -> ov.Model:
    """Read a model, and cut its idle inputs out.

    Args:
        read: Reads it.
        names: The inputs.

    Raises:
        RuntimeError: It reads them in another way than the manifest says.
    """
    model = read()
    if not cut_idle_inputs(model, names):
        raise RuntimeError(f"its inputs {', '.join(sorted(names)[:3])} ... cannot be left out, as the manifest says")
    return model


def cut_idle_inputs(model: ov.Model, names: Collection[str]) -> bool:
    """Remove inputs that change nothing while they are zero; see `targets.idle_graph.drop_idle_inputs`.

    Returns:
        False where the model reads one in another way; it is of no use then.
    """
    idle = [parameter for parameter in model.get_parameters() if parameter.get_friendly_name() in names]
    zeros = [
        parameter.output(0)
        for parameter in idle
        if is_image_prompt_scale(parameter.get_friendly_name())
        or not is_image_prompt_input(parameter.get_friendly_name())
    ]
    while zeros:
        zero = zeros.pop()
        for node in consumers(zero):
            kind = node.get_type_name()
            first = kind in _SAME_DATA and node.input_value(0) == zero
            if first or kind in _PRODUCTS:
                zeros += node.outputs()
            elif kind != "ShapeOf" and not (kind == "Add" and _skip(node, zero)):
                return False
    for parameter in idle:
        model.remove_parameter(parameter)
    try:
        model.validate_nodes_and_infer_types()
    except RuntimeError:  # something that is left reads a parameter
        return False
    return len(idle) == len(names)


def _skip(total: ov.Node, zero: ov.Output) -> bool:
    """Let the readers of a sum read its other term; return False where that is spread."""
    others = [value for value in total.input_values() if value != zero]
    if len(others) != 1 or sizes(others[0]) != sizes(total.output(0)):
        return False
    replace(total.output(0), others[0], rename=False)
    if sizes(zero) == sizes(others[0]):
        for target in list(zero.get_target_inputs()):
            if target.get_node().get_type_name() == "ShapeOf":
                target.replace_source_output(others[0])
    return True
