"""Checks the values of a manifest whose types are right: ranges of numbers, and lists that must not be empty."""

from collections.abc import Mapping, Sequence

from diffoundry.runtime.bundle.json_codec import RecordError
from diffoundry.runtime.bundle.specs import (
    AdapterSpec,
    ComponentSpec,
    DimSpec,
    EnginePart,
    EngineSpec,
    Recipe,
    TensorSpec,
)

__all__ = ["check_manifest"]

_LARGEST = 2**40
"""Largest number of a size in a manifest: of a side, a batch, a table of embeddings."""

_MOST_AXES = 8
_DTYPES = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool")


def check_manifest(recipe: Recipe, components: Mapping[str, ComponentSpec]) -> None:
    """Refuse numbers out of range and empty lists of files.

    Raises:
        RecordError: The message starts with the path of the field.
    """
    _check_recipe(recipe)
    for name, component in components.items():
        _check_component(f"$.components.{name}", component)


def _check_recipe(recipe: Recipe) -> None:
    for name, dim in recipe.dims.items():
        _check_dim(f"$.recipe.dims.{name}", dim)
    for index, bucket in enumerate(recipe.buckets):
        _check_sizes(f"$.recipe.buckets[{index}]", bucket)
    _in_range("$.recipe.opset", recipe.opset, 1, 1000)
    for precision, choice in recipe.quantization.items():
        _in_range(f"$.recipe.quantization.{precision}.prompts", choice.prompts, 0, _LARGEST)
        _in_range(f"$.recipe.quantization.{precision}.held_out", choice.held_out, 0, _LARGEST)


def _check_dim(where: str, dim: DimSpec) -> None:
    _in_range(f"{where}.min", dim.min, 1, _LARGEST)
    _in_range(f"{where}.multiple_of", dim.multiple_of, 1, _LARGEST)
    if dim.max is not None:
        _in_range(f"{where}.max", dim.max, dim.min, _LARGEST)


def _check_component(where: str, component: ComponentSpec) -> None:
    for index, engine in enumerate(component.engines):
        _check_engine(f"{where}.engines[{index}]", engine)


def _check_engine(where: str, engine: EngineSpec) -> None:
    _check_run(where, engine)
    names = [part.name for part in engine.parts]
    for index, part in enumerate(engine.parts):
        _check_run(f"{where}.parts[{index}]", part)
        if part.name in names[:index]:
            raise RecordError(f"{where}.parts[{index}].name: got {part.name[:60]!r} twice, expected it once")
        _in_range(f"{where}.parts[{index}].weights", part.weights, 0, _LARGEST)
        own = [each.files for each in (part.adapters, part.idle) if each is not None]
        others = [name for some in (part.files, *own) for name in some if name not in engine.all_files]
        if others:
            raise RecordError(f"{where}.parts[{index}].files: got {others[0]!r}, expected files of the engine only")
    if engine.parts:
        _check_chain(where, engine)


def _check_chain(where: str, engine: EngineSpec) -> None:
    """Refuse parts that read or return values which nothing makes."""
    known = {tensor.name for tensor in engine.inputs}
    for index, part in enumerate(engine.parts):
        missing = [tensor.name for tensor in part.inputs if tensor.name not in known]
        if missing:
            raise RecordError(
                f"{where}.parts[{index}].inputs: got {missing[0][:60]!r}, expected inputs of the engine and outputs of "
                f"earlier parts"
            )
        known |= {tensor.name for tensor in part.outputs}
        _check_residuals(f"{where}.parts[{index}].residuals", part, known)
    missing = [tensor.name for tensor in engine.outputs if tensor.name not in known]
    if missing:
        raise RecordError(f"{where}.outputs: got {missing[0][:60]!r}, expected outputs of its parts")


def _check_residuals(where: str, part: EnginePart, known: set[str]) -> None:
    """Refuse differences of values that a part does not make, or that nothing has made."""
    outputs = {tensor.name for tensor in part.outputs}
    for name, before in part.residuals.items():
        if name not in outputs or before not in known:
            raise RecordError(
                f"{where}: got {name[:60]!r} and {before[:60]!r}, expected an output of the part and an earlier value"
            )


def _check_run(where: str, engine: EngineSpec | EnginePart) -> None:
    """Check what an engine and a part of one have in common."""
    _not_empty(f"{where}.files", engine.files)
    for kind, tensors in (("inputs", engine.inputs), ("outputs", engine.outputs)):
        for index, tensor in enumerate(tensors):
            _check_tensor(f"{where}.{kind}[{index}]", tensor)
    if engine.adapters is not None:
        _check_adapters(f"{where}.adapters", engine.adapters)
    if engine.idle is not None:
        known = {tensor.name for tensor in engine.inputs}
        unknown = [name for name in engine.idle.inputs if name not in known]
        if unknown or not engine.idle.inputs:
            got = repr(unknown[0][:60]) if unknown else "an empty list"
            raise RecordError(f"{where}.idle.inputs: got {got}, expected inputs of the engine")


def _check_tensor(where: str, tensor: TensorSpec) -> None:
    if tensor.dtype not in _DTYPES:
        raise RecordError(f"{where}.dtype: got {tensor.dtype[:60]!r}, expected one of {', '.join(_DTYPES)}")
    if len(tensor.shape) > _MOST_AXES:
        raise RecordError(f"{where}.shape: got {len(tensor.shape)} sizes, expected at most {_MOST_AXES}")
    for index, size in enumerate(tensor.shape):
        if isinstance(size, int):
            _in_range(f"{where}.shape[{index}]", size, 0, _LARGEST)


def _check_adapters(where: str, adapters: AdapterSpec) -> None:
    _not_empty(f"{where}.files", adapters.files)
    for layer, shape in adapters.layers.items():
        _check_sizes(f"{where}.layers.{layer}", shape)
        if len(shape) not in (2, 4):
            raise RecordError(f"{where}.layers.{layer}: got {len(shape)} sizes, expected 2, or 4 of a convolution")
    _in_range(f"{where}.vocabulary", adapters.vocabulary, 0, 2**31)
    _in_range(f"{where}.width", adapters.width, 0, _LARGEST)


def _check_sizes(where: str, sizes: Sequence[int]) -> None:
    for index, size in enumerate(sizes):
        _in_range(f"{where}[{index}]", size, 1, _LARGEST)


def _in_range(where: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise RecordError(f"{where}: got {_digits(value)}, expected a whole number from {low} to {high}")


def _not_empty(where: str, values: Sequence[str]) -> None:
    if not values:
        raise RecordError(f"{where}: got an empty list, expected at least one entry")


def _digits(value: int) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
