"""The classes of `triton_python_backend_utils` that a Python model uses, with the checks that Triton does itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tensor:
    """A tensor with a name."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        assert isinstance(array, np.ndarray)
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class TritonError:
    """An error of one request."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class InferenceResponse:
    """The answer to one request."""

    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self._tensors, self._error = output_tensors, error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class InferenceRequest:
    """One request; a client that leaves after some steps counts as cancelled from then on."""

    def __init__(self, inputs: Mapping[str, NDArray[Any]], leaves_after: int | None = None) -> None:
        self._inputs = {name: Tensor(name, array) for name, array in inputs.items()}
        self._left = leaves_after
        self.asked = 0

    def inputs(self) -> list[Tensor]:
        return list(self._inputs.values())

    def is_cancelled(self) -> bool:
        self.asked += 1
        return self._left is not None and self.asked >= self._left


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    """Return an input, None where the client sent none."""
    return next((one for one in request.inputs() if one.name() == name), None)
