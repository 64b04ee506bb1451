"""The work of requests, and how fast it is done: for the expected wait."""

import time
from collections.abc import Iterable

from diffoundry.runtime.dispatch.lane import pixels_of
from diffoundry.runtime.dispatch.request import Request

__all__ = ["Pace", "work_left", "work_of"]

_UNKNOWN = 1.0
"""Seconds for a request, as long as none has made a step."""


def work_of(request: Request) -> float:
    """Return the work of a request: steps times images times pixels."""
    counts = [value for name, value in request.arguments.items() if name.endswith("num_inference_steps")]
    steps = sum(count for count in counts if isinstance(count, int)) or 1
    return float((request.total or steps) * request.count * pixels_of(request))


def work_left(request: Request) -> float:
    """Return the work of a request that is not done yet."""
    total = request.total
    return work_of(request) * (1.0 if not total else max(1.0 - request.done_steps / total, 0.0))


class Pace:
    """Measures how fast work is done while there is some."""

    def __init__(self) -> None:
        """Nothing is measured."""
        self._done = 0.0
        self._seconds = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        """Start the clock: there is work now."""
        self._since = time.monotonic() if self._since is None else self._since

    def pause(self) -> None:
        """Stop the clock: there is none."""
        self._seconds, self._since = self._busy(), None

    def add(self, work: float) -> None:
        """Count work that was done."""
        self._done += work

    def expect(self, requests: Iterable[Request]) -> float:
        """Return the seconds that the rest of some requests takes."""
        rest = list(requests)
        if not self._done:
            return _UNKNOWN * len(rest)
        return sum(work_left(request) for request in rest) * self._busy() / self._done

    def _busy(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)
