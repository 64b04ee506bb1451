"""Folds the recorded steps of a loop into one step: constants that differ between steps become tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.exporter.single_graph.graph_array import Trace
from diffoundry.exporter.single_graph.operation import Operation, UnrecordedError

__all__ = ["Table", "check_equal", "fold_steps"]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A constant of each step: (steps, ...)."""

    rows: npt.NDArray[Any]


def fold_steps(traces: Sequence[Trace]) -> list[tuple[Operation, tuple[int | npt.NDArray[Any] | Table, ...]]]:
    """Return the operations of one step with their inputs.

    Raises:
        UnrecordedError: The steps are no repetition of one another.
    """
    first = traces[0].operations
    if any(len(trace.operations) != len(first) for trace in traces):
        raise UnrecordedError("other operations in some steps of its loop")
    folded = []
    for same in zip(*(trace.operations for trace in traces), strict=True):
        if any(_kind(one) != _kind(same[0]) for one in same):
            raise UnrecordedError("other operations in some steps of its loop")
        folded.append((same[0], tuple(_fold(column) for column in zip(*(one.inputs for one in same), strict=True))))
    return folded


def check_equal(first: Trace, second: Trace) -> None:
    """Refuse a computation that depends on the texts by more than the inputs of the graph.

    Raises:
        UnrecordedError: As said.
    """
    folded = fold_steps([first, second]) if len(first.operations) == len(second.operations) else None
    if folded is None or any(isinstance(one, Table) for _, inputs in folded for one in inputs):
        raise UnrecordedError("a conditioning that depends on the number of words of a prompt")


def _kind(operation: Operation) -> Any:
    attributes = {name: str(value) for name, value in operation.attributes.items()}
    shapes = [one if isinstance(one, int) else (one.shape, one.dtype) for one in operation.inputs]
    return operation.operator, operation.component, operation.names, operation.outputs, attributes, shapes


def _fold(column: Sequence[int | npt.NDArray[Any]]) -> int | npt.NDArray[Any] | Table:
    first = column[0]
    if isinstance(first, int):
        return first
    rows = np.stack([np.asarray(one) for one in column])
    return Table(rows) if (rows != rows[0]).any() else first
