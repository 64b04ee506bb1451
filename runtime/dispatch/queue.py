"""The requests that wait: the shortest first, and none is passed over for ever."""

from diffoundry.runtime.dispatch.pace import work_of
from diffoundry.runtime.dispatch.request import Request

__all__ = ["RequestQueue"]

_PASSES = 4
"""Requests that may overtake the one that waits longest."""


class RequestQueue:
    """Waiting requests. The caller holds a lock."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._waiting: list[Request] = []
        self._passed = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request: Request) -> bool:
        return request in self._waiting

    def in_order(self) -> tuple[Request, ...]:
        """Return the requests as they would start if no other came."""
        rest, passed, order = list(self._waiting), self._passed, []
        while rest:
            chosen = _next(rest, passed)
            passed = 0 if chosen is rest[0] else passed + 1
            rest.remove(chosen)
            order.append(chosen)
        return tuple(order)

    def add(self, request: Request) -> None:
        """Append a request."""
        self._waiting.append(request)

    def next(self) -> Request | None:
        """Return the request that starts next, and keep it; None where none waits."""
        return _next(self._waiting, self._passed) if self._waiting else None

    def take(self, request: Request) -> None:
        """Remove a request that starts."""
        self._passed = 0 if request is self._waiting[0] else self._passed + 1
        self._waiting.remove(request)

    def remove(self, request: Request) -> None:
        """Remove a request that was stopped or refused."""
        self._passed = 0 if request is self._waiting[0] else self._passed
        self._waiting.remove(request)


def _next(waiting: list[Request], passed: int) -> Request:
    return waiting[0] if passed >= _PASSES else min(waiting, key=work_of)
