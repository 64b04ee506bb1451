"""One recorded operation, and the refusal of one that is not recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

__all__ = ["Operation", "UnrecordedError"]


class UnrecordedError(Exception):
    """A computation that `GraphArray` does not record.

    Attributes:
        operation: NumPy's name of it.
    """

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Operation:
    """One operator of ONNX, or one call of a component.

    Attributes:
        operator: Name of the operator; empty for a component.
        inputs: Numbers of arrays of the trace, and constants.
        attributes: Of the operator.
        outputs: Numbers of the arrays that it computes.
        component: Name of the component that is called; empty for an operator.
        names: Names of a component's inputs, in the order of `inputs`.
    """

    operator: str
    inputs: tuple[int | npt.NDArray[Any], ...]
    attributes: Mapping[str, Any]
    outputs: tuple[int, ...]
    component: str = ""
    names: tuple[str, ...] = ()
