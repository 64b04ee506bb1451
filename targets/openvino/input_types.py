"""Types of a model's inputs: int64 for OpenVINO GenAI, those of the portable graph for our runtime."""

from collections.abc import Iterable

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.targets.openvino.import_openvino import ops, ov

__all__ = ["expect_specs", "take_int64"]

_INT64 = ("timestep", "input_ids")
"""Inputs that OpenVINO GenAI feeds as int64: timesteps always, tokens unless its tokenizer is one for int32."""


def take_int64(model: ov.Model) -> None:
    """Let the inputs of those names be int64, the only type that OpenVINO then takes, and convert them inside."""
    for parameter in model.get_parameters():
        wanted = parameter.get_element_type()
        if not parameter.output(0).get_names().isdisjoint(_INT64) and wanted != ov.Type.i64:
            readers = parameter.output(0).get_target_inputs()
            whole = _retyped(model, parameter, ov.Type.i64)
            inside = ops.convert(whole, wanted.to_string())
            inside.set_friendly_name(f"{whole.get_friendly_name()}/Convert")
            for reader in readers:
                reader.replace_source_output(inside.output(0))


def expect_specs(model: ov.Model, inputs: Iterable[TensorSpec]) -> None:
    """Undo `take_int64` for an engine of ours, so that no fraction of a timestep is cut off.

    Args:
        model: As read from the bundle.
        inputs: Of the engine's manifest entry, with the types of the portable graph.
    """
    types = {spec.name: spec.dtype for spec in inputs}
    for parameter in model.get_parameters():
        wanted = next((types[name] for name in parameter.output(0).get_names() if name in types), None)
        readers = [target.get_node() for target in parameter.output(0).get_target_inputs()]
        if wanted is None or wanted == _numpy_name(parameter.output(0)) or len(readers) != 1:
            continue
        if readers[0].get_type_name() == "Convert" and _numpy_name(readers[0].output(0)) == wanted:
            own = _retyped(model, parameter, readers[0].get_element_type())
            for target in readers[0].output(0).get_target_inputs():
                target.replace_source_output(own.output(0))


def _numpy_name(output: ov.Output) -> str:
    name: str = output.get_element_type().to_dtype().name
    return name


def _retyped(model: ov.Model, parameter: ov.Node, wanted: ov.Type) -> ov.Node:
    """An input of another type with the names, shape and position of `parameter`, which is then no input any more."""
    new = ops.parameter(parameter.get_partial_shape(), wanted)
    new.set_friendly_name(parameter.get_friendly_name())
    new.output(0).set_names(parameter.output(0).get_names())
    model.replace_parameter(model.get_parameter_index(parameter), new)
    return new
