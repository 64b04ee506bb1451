"""Runs a function of a package, operation by operation, and distrusts every one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coreml_interpreter.operators import OPERATORS
from coreml_interpreter.package import Function, Name, Operation, Package, TensorType

__all__ = ["Interpreter", "MismatchError", "Run", "UnknownOperatorError"]


_HELD = {"int4": "int8", "uint1": "uint8", "uint2": "uint8", "uint3": "uint8", "uint4": "uint8", "uint6": "uint8"}
"""Types that NumPy lacks, and what holds them."""


class MismatchError(Exception):
    """The computed outputs differ from the package's declaration."""


class UnknownOperatorError(Exception):
    """The interpreter does not know an operator."""


@dataclass
class Run:
    """Result of one run.

    Attributes:
        outputs: Name to array.
        non_finite: Names of the values that hold an infinity or a NaN, in the order in which they were computed.
        counts: Operator to how often it ran, constants left out.
    """

    outputs: dict[str, np.ndarray]
    non_finite: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class Interpreter:
    """Runs one function of a package.

    Every operation computes in float32; its result is rounded to the type that the package declares for it, so a
    package in half precision overflows and loses digits as half precision does. A device accumulates in its own way.
    """

    def __init__(self, path: Path, function: str | None = None) -> None:
        package = Package(Path(path))
        self.package = package
        self.function: Function = package.functions[function or package.default]
        self._constants: dict[str, Any] = {}
        self._types = dict(self.function.parameters)
        self._types.update(item for operation in self.function.operations for item in operation.outputs.items())
        self._steps: list[tuple[Operation, Callable[..., Any]]] = []
        for operation in self.function.operations:
            self._prepare(operation)

    def _prepare(self, operation: Operation) -> None:
        """Evaluate constants once; the others wait for inputs."""
        if operation.type == "const":
            (name,) = operation.outputs
            value = operation.arguments["val"]
            self._constants[name] = value if isinstance(value, str) else _declared(operation, name, value, "const")
        elif operation.type not in OPERATORS:
            raise UnknownOperatorError(operation.type)
        elif operation.type.startswith("constexpr_"):
            (name,) = operation.outputs
            made = OPERATORS[operation.type](**self._arguments(operation, self._constants))
            self._constants[name] = _declared(operation, name, made, operation.type)
        else:
            self._steps.append((operation, OPERATORS[operation.type]))

    def run(self, feeds: Mapping[str, np.ndarray]) -> Run:
        """Run once on arrays that are exactly as the model's description says."""
        self._check_feeds(feeds)
        values: dict[str, Any] = dict(self._constants)
        for name, declared in self.function.parameters.items():
            values[name] = _computed(np.asarray(feeds[name]).astype(declared.dtype))
        result = Run(outputs={})
        for operation, compute in self._steps:
            made = compute(**self._arguments(operation, values))
            made = made if isinstance(made, tuple | list) else (made,)
            if len(made) != len(operation.outputs):
                raise MismatchError(f"{operation.type}: {len(made)} results, declared {len(operation.outputs)}")
            for name, array in zip(operation.outputs, made, strict=True):
                values[name] = _declared(operation, name, array, operation.type)
                if values[name].dtype.kind == "f" and not np.all(np.isfinite(values[name])):
                    result.non_finite.append(name)
            result.counts[operation.type] = result.counts.get(operation.type, 0) + 1
        for name in self.function.results:
            feature = self.function.outputs[name]
            declared = self._types[name]
            if declared != TensorType(feature.dtype, feature.shape):
                raise MismatchError(f"output {name}: made as {declared}, described as {feature}")
            result.outputs[name] = values[name].astype(declared.dtype)
        return result

    def _check_feeds(self, feeds: Mapping[str, np.ndarray]) -> None:
        if set(feeds) != set(self.function.inputs):
            raise MismatchError(f"got the inputs {sorted(feeds)}, described {sorted(self.function.inputs)}")
        for name, feature in self.function.inputs.items():
            array = feeds[name]
            if array.shape != feature.shape or array.dtype != feature.dtype:
                raise MismatchError(f"input {name}: got {array.dtype} {array.shape}, described {feature}")

    def _arguments(self, operation: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: _resolve(value, values) for key, value in operation.arguments.items()}


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_resolve(part, values) for part in value]
    return values[value] if isinstance(value, Name) else value


def _declared(operation: Operation, name: str, array: Any, kind: str) -> np.ndarray:
    """Round a result to its declared type; shape and kind must be those declared."""
    declared: TensorType = operation.outputs[name]
    array = np.asarray(array)
    wanted = np.dtype(_HELD.get(declared.dtype, declared.dtype))
    if array.shape != declared.shape:
        raise MismatchError(f"{kind} {name}: computed shape {array.shape}, declared {declared.shape}")
    if array.dtype.kind != wanted.kind and {array.dtype.kind, wanted.kind} != {"i", "u"}:
        raise MismatchError(f"{kind} {name}: computed {array.dtype}, declared {declared.dtype}")
    with np.errstate(over="ignore"):
        return _computed(array.astype(wanted))


def _computed(array: np.ndarray) -> np.ndarray:
    """A value in the type that operators compute in: rounded to half precision, held in single precision."""
    return array.astype(np.float32) if array.dtype == np.float16 else array
