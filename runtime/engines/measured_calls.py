"""Decides from a call in pieces whether a network fits into a limit of memory as a whole."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffoundry.runtime.engines.memory_limit import MemoryLimit
from diffoundry.runtime.engines.protocol import Engine

__all__ = ["MeasuredCalls"]

Shapes = Mapping[str, tuple[int, ...]]


class MeasuredCalls:
    """Remembers the networks that fit as a whole, and for which shapes.

    The memory of values cannot be known from weights. A call in pieces shows it: what such a call takes at its peak,
    with the weights of a piece, is at least what the values of the whole network take.
    """

    def __init__(self, limit: MemoryLimit) -> None:
        """Begin with no network."""
        self._limit = limit
        self._whole: dict[str, Shapes] = {}

    def is_whole(self, name: str) -> bool:
        """Return True for a component that may be open as a whole."""
        return name in self._whole

    def is_outgrown(self, name: str, shapes: Shapes) -> bool:
        """Return True, and forget a component, if arrays of these shapes are larger than those that were measured."""
        measured = self._whole.get(name)
        if measured is None or all(_covers(measured.get(feed, ()), shape) for feed, shape in shapes.items()):
            return False
        del self._whole[name]
        return True

    @contextmanager
    def measuring(self, name: str, engine: Engine, shapes: Shapes) -> Iterator[None]:
        """Measure a call of an engine; afterwards `is_whole` is True if it ran in pieces and need not."""
        weights: int = getattr(engine, "whole_memory", 0)
        if not weights:
            yield
            return
        held = self._limit.begin()
        yield
        if weights + self._limit.peak - held <= self._limit.room:
            self._whole[name] = shapes


def _covers(measured: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(measured) == len(shape) and all(own >= side for own, side in zip(measured, shape, strict=True))
