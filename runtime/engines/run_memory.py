"""Results of the graphs of a partitioned network that do not change in every step, for one run of a pipeline."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from diffoundry.runtime.engines.protocol import Array

__all__ = ["RunMemory", "current_memory", "is_same", "keep", "with_memory"]

Step = TypeVar("Step")

_MOST = 8
"""Inputs whose results are kept for each graph: a guided and an unguided call, and the parts of a large batch."""

_current: ContextVar["RunMemory | None"] = ContextVar("run_memory", default=None)


@dataclass(slots=True, eq=False)
class _Entry:
    """Results for one set of inputs, by the bytes of the timestep; those of a graph without one by none."""

    feeds: Mapping[str, Array]
    results: Mapping[bytes, dict[str, Array]] = field(default_factory=dict)


class RunMemory:
    """The results of one run. Belongs to one thread at a time, and ends with its run.

    A result is found by its inputs: equal arrays give it, others do not. So nothing is ever stale, and a step that
    feeds other prompts or another number of rows gets results of its own.

    Attributes:
        schedule: Timesteps of the loop under way, (N,), as the scheduler counts; None where the loop does not say.
        convert: Timesteps as the scheduler counts -> as the network that is called takes them.
    """

    def __init__(self) -> None:
        self.schedule: Array | None = None
        self.convert: Callable[[Any], Array] | None = None
        self._results: dict[object, tuple[object, list[_Entry]]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the engines that the block calls, on this thread, find and keep their results here."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def following(self, time: Array) -> Array | None:
        """Return the times (N,) that the loop feeds after this one, (1,); None where that is not known."""
        if self.schedule is None or self.convert is None:
            return None
        times = self.convert(self.schedule).astype(time.dtype)
        (places,) = np.nonzero(times == time)
        if time.size != 1 or not places.size:
            return None
        rest = np.array(list(dict.fromkeys(times[places[0] :].tolist())), time.dtype)
        others: Array = rest[rest != time]
        return others

    def recall(
        self,
        graph: object,
        weights: object,
        feeds: Mapping[str, Array],
        shapes: Collection[str],
        compute: Callable[[Mapping[str, Array]], Mapping[bytes, dict[str, Array]]],
        time: str | None = None,
    ) -> dict[str, Array]:
        """Return the results of a graph for these inputs, computed at the first time.

        Args:
            graph: Identity of the graph.
            weights: Identity of its weights; results of other weights, such as those of LoRAs before, are dropped.
            feeds: Its inputs.
            shapes: Names of the inputs whose shapes alone matter.
            compute: Runs it: bytes of `time` -> results, for this timestep and any others. Without `time` the bytes
                are empty.
            time: Name of the input with the timestep, of one number; None for a graph without.
        """
        before, entries = self._results.setdefault(graph, (weights, []))
        if before is not weights:
            entries = []
            self._results[graph] = weights, entries
        others = {name: array for name, array in feeds.items() if name != time}
        moment = b"" if time is None else feeds[time].tobytes()
        entry = next((one for one in entries if is_same(one.feeds, others, shapes)), None)
        if entry is None:
            entry = _Entry(keep(others, shapes))
        else:
            entries.remove(entry)
        if moment not in entry.results:
            entry.results = compute(feeds)
        entries.insert(0, entry)
        del entries[_MOST:]
        return entry.results[moment]


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
