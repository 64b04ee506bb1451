"""Reads a package: manifest, model description, program. Arguments become names of values, or arrays and strings."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.proto import Model_pb2

from coreml_interpreter.blobs import WeightFile, unpack_bits

__all__ = ["Feature", "Function", "Name", "Operation", "Package", "TensorType", "UnsupportedPackageError"]

_OPSETS = {6: "CoreML5", 7: "CoreML6", 8: "CoreML7", 9: "CoreML8"}
"""Specification version (iOS 15, 16, 17, 18) to the name of its operator set."""

_DTYPES = {
    1: "bool", 2: "str", 10: "float16", 11: "float32", 21: "int8", 22: "int16", 23: "int32", 31: "uint8", 32: "uint16",
    33: "uint32", 25: "int4", 35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6", 39: "uint3",
}  # fmt: skip
"""MIL.proto, DataType."""

_BITS = {"int4": 4, "uint4": 4, "uint2": 2, "uint1": 1, "uint6": 6, "uint3": 3}

_FEATURES = {65568: "float32", 65552: "float16", 131104: "int32", 65600: "float64"}
"""FeatureTypes.proto, ArrayFeatureType.ArrayDataType."""


class UnsupportedPackageError(Exception):
    """A package uses what ours never do: sizes that are not fixed, lists, images, blocks in operations."""


class Name(str):
    """The name of a value, as against a string."""

    __slots__ = ()


@dataclass(frozen=True)
class TensorType:
    """The declared type of a value."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Feature:
    """An input or output of the model, as an app sees it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One operation: arguments are names, arrays, strings, or lists of these."""

    type: str
    arguments: dict[str, Any]
    outputs: dict[str, TensorType]


@dataclass(frozen=True)
class Function:
    """One function of a program, with its place in the model's description."""

    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    parameters: dict[str, TensorType]
    results: tuple[str, ...]
    operations: tuple[Operation, ...] = field(repr=False)


class Package:
    """A folder `*.mlpackage`.

    Attributes:
        functions: Name to function; one that is not named otherwise is called "main".
        default: Name of the function that runs when none is asked for.
        version: Specification version: 7, 8, 9 for iOS 16, 17, 18.
        metadata: What the package says of itself.
    """

    def __init__(self, path: Path) -> None:
        manifest = json.loads((path / "Manifest.json").read_text())
        entries = manifest["itemInfoEntries"]
        files = {entry["name"]: path / "Data" / entry["path"] for entry in entries.values()}
        root = path / "Data" / entries[manifest["rootModelIdentifier"]]["path"]
        model = Model_pb2.Model()
        model.ParseFromString(root.read_bytes())
        weights = files.get("weights")
        self._weights = WeightFile(weights / "weight.bin") if weights and (weights / "weight.bin").is_file() else None
        self.version = model.specificationVersion
        self.metadata = dict(model.description.metadata.userDefined)
        described = {function.name: function for function in model.description.functions} or {"main": model.description}
        self.default = model.description.defaultFunctionName or "main"
        self.functions = {
            name: self._function(model.mlProgram.functions[name], description)
            for name, description in described.items()
        }

    def _function(self, function: Any, description: Any) -> Function:
        expected = _OPSETS[self.version]
        if function.opset != expected:
            raise ValueError(f"operator set {function.opset}, specification {self.version} has {expected}")
        block = function.block_specializations[function.opset]
        return Function(
            inputs={feature.name: _feature(feature) for feature in description.input},
            outputs={feature.name: _feature(feature) for feature in description.output},
            parameters={value.name: _type(value.type) for value in function.inputs},
            results=tuple(block.outputs),
            operations=tuple(self._operation(operation) for operation in block.operations),
        )

    def _operation(self, operation: Any) -> Operation:
        if operation.blocks:
            raise UnsupportedPackageError(f"{operation.type} has blocks")
        arguments: dict[str, Any] = {
            key: self._value(value) for key, value in operation.attributes.items() if key != "name"
        }
        for key, given in operation.inputs.items():
            values = [
                Name(argument.name) if argument.WhichOneof("binding") == "name" else self._value(argument.value)
                for argument in given.arguments
            ]
            arguments[key] = values if len(values) > 1 or key == "values" else values[0]
        outputs = {value.name: _type(value.type) for value in operation.outputs}
        return Operation(type=operation.type, arguments=arguments, outputs=outputs)

    def _value(self, value: Any) -> Any:
        declared = _type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            if self._weights is None:
                raise ValueError("a value in a weight file that the package lacks")
            return self._weights.read(value.blobFileValue.offset, declared.shape)
        tensor = value.immediateValue.tensor
        if declared.dtype == "str":
            return tensor.strings.values[0]
        kind = tensor.WhichOneof("value")
        if kind == "bytes" and declared.dtype in _BITS:
            array = unpack_bits(
                np.frombuffer(tensor.bytes.values, np.uint8),
                _BITS[declared.dtype],
                int(np.prod(declared.shape)),
                signed=declared.dtype.startswith("i"),
            )
        elif kind == "bytes":
            array = np.frombuffer(tensor.bytes.values, declared.dtype)
        elif kind is None:
            array = np.zeros(0, declared.dtype)
        else:
            array = np.array(getattr(tensor, kind).values, declared.dtype)
        return array.reshape(declared.shape)


def _type(declared: Any) -> TensorType:
    if declared.WhichOneof("type") != "tensorType":
        raise UnsupportedPackageError(f"a value of {declared.WhichOneof('type')}")
    tensor = declared.tensorType
    if any(dim.WhichOneof("dimension") != "constant" for dim in tensor.dimensions):
        raise UnsupportedPackageError("a size that is not fixed")
    return TensorType(_DTYPES[tensor.dataType], tuple(dim.constant.size for dim in tensor.dimensions))


def _feature(feature: Any) -> Feature:
    if feature.type.WhichOneof("Type") != "multiArrayType":
        raise UnsupportedPackageError(f"a feature of {feature.type.WhichOneof('Type')}")
    array = feature.type.multiArrayType
    return Feature(feature.name, _FEATURES[array.dataType], tuple(array.shape))
