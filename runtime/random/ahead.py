"""Draws the noise of the next step while the engine computes this one."""

import copy
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import DTypeLike

from diffoundry.runtime.random.base import FloatArray, Generator, IntArray
from diffoundry.runtime.random.native import native_library

__all__ = ["AheadGenerator", "draw_ahead"]

_LEAST = 4096
"""Drawing fewer numbers takes less time than handing them to a thread."""


class AheadGenerator:
    """The stream of another generator, with the same numbers for every order of draws.

    A call of `randn` that repeats the one before is taken as the noise of a step. The next one is then drawn by a
    thread, from a copy. A draw of another kind drops it, and goes on from where the last one ended.

    Args:
        generator: Belongs to this one from now on.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._last: tuple[tuple[int, ...], str] | None = None
        self._next: Future[tuple[Generator, FloatArray]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def kind(self) -> str:
        """See `Generator`."""
        return self._generator.kind

    @property
    def seed(self) -> int:
        """See `Generator`."""
        return self._generator.seed

    def randn(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """See `Generator`."""
        request = tuple(shape), str(dtype)
        repeated, ahead = request == self._last, self._next
        self._last, self._next = request, None
        if repeated and ahead is not None:
            self._generator, drawn = ahead.result()
        else:
            drawn = self._generator.randn(shape, dtype)
        if repeated and math.prod(request[0]) >= _LEAST:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="diffoundry-noise")
            self._next = self._thread.submit(_draw, copy.copy(self._generator), request[0], dtype)
        return drawn

    def rand(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """See `Generator`."""
        self._last = self._next = None
        return self._generator.rand(shape, dtype)

    def randint(self, low: int, high: int, shape: Sequence[int]) -> IntArray:
        """See `Generator`."""
        self._last = self._next = None
        return self._generator.randint(low, high, shape)

    def __copy__(self) -> Generator:
        return copy.copy(self._generator)

    def __deepcopy__(self, memo: dict[int, object]) -> Generator:
        return copy.deepcopy(self._generator, memo)

    def __reduce__(self) -> tuple[type["AheadGenerator"], tuple[Generator]]:
        return type(self), (self._generator,)

    def __repr__(self) -> str:
        return f"AheadGenerator({self._generator!r})"


def draw_ahead(generator: Generator) -> Generator:
    """Return a generator that draws ahead, or the same one where the native library draws faster than a thread starts.

    Args:
        generator: Of one run alone; nobody else may draw from it.
    """
    return AheadGenerator(generator) if native_library() is None else generator


def _draw(generator: Generator, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Generator, FloatArray]:
    drawn = generator.randn(shape, dtype)
    return generator, drawn
