"""Results of the graphs of a partitioned network that do not change in every step, for one run of a pipeline."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import numpy as np

from diffoundry.runtime.engines.protocol import Array

__all__ = ["RunMemory", "current_memory", "is_same", "keep", "with_memory"]

Step = TypeVar("Step")

_MOST = 8
"""Results that are kept for each graph: of a guided and an unguided call, and of the parts of a large batch."""

_current: ContextVar["RunMemory | None"] = ContextVar("run_memory", default=None)


class RunMemory:
    """The results of one run. Belongs to one thread at a time, and ends with its run.

    A result is found by its inputs: equal arrays give it, others do not. So nothing is ever stale, and a step that
    feeds other prompts or another number of rows gets results of its own.
    """

    def __init__(self) -> None:
        self._results: dict[object, tuple[object, list[tuple[Mapping[str, Array], dict[str, Array]]]]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the engines that the block calls, on this thread, find and keep their results here."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def recall(
        self,
        graph: object,
        weights: object,
        feeds: Mapping[str, Array],
        shapes: Collection[str],
        compute: Callable[[Mapping[str, Array]], dict[str, Array]],
    ) -> dict[str, Array]:
        """Return the results of a graph for these inputs, computed at the first time.

        Args:
            graph: Identity of the graph.
            weights: Identity of its weights; results of other weights, such as those of LoRAs before, are dropped.
            feeds: Its inputs.
            shapes: Names of the inputs whose shapes alone matter.
            compute: Runs it.
        """
        before, results = self._results.setdefault(graph, (weights, []))
        if before is not weights:
            results = []
            self._results[graph] = weights, results
        for place, (inputs, outputs) in enumerate(results):
            if is_same(inputs, feeds, shapes):
                results.insert(0, results.pop(place))
                return outputs
        outputs = compute(feeds)
        results.insert(0, (keep(feeds, shapes), outputs))
        del results[_MOST:]
        return outputs


def current_memory() -> RunMemory | None:
    """Return the memory of the run that calls an engine on this thread; None outside of runs."""
    return _current.get()


def with_memory(steps: Iterator[Step], memory: RunMemory) -> Iterator[Step]:
    """Yield the steps of a run; the memory is active while each of them is made, and not between them."""
    while True:
        with memory.active():
            try:
                step = next(steps)
            except StopIteration:
                return
        yield step


def keep(feeds: Mapping[str, Array], shapes: Collection[str]) -> dict[str, Array]:
    """Copy inputs, for `is_same`; those named in `shapes` take no memory."""
    return {name: _shape_of(array) if name in shapes else array.copy() for name, array in feeds.items()}


def _shape_of(array: Array) -> Array:
    """Return an array of this shape that takes no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def is_same(kept: Mapping[str, Array], feeds: Mapping[str, Array], shapes: Collection[str]) -> bool:
    """Return whether inputs are those that were kept; of the ones named in `shapes` the shape alone counts."""
    if kept.keys() != feeds.keys():
        return False
    for name, array in feeds.items():
        one = kept[name]
        if one.shape != array.shape or (name not in shapes and not np.array_equal(one, array)):
            return False
    return True
