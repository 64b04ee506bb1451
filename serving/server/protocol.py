"""uvicorn's HTTP protocol with deadlines for slow clients, which would hold connections for ever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from diffoundry.serving.server.limits import Limits

__all__ = ["make_protocol"]

_SPARE = 32
"""Connections beyond the limit, which learn that there are too many, or the state of the server."""


class _DeadlineProtocol(H11Protocol):
    """Ends connections whose headers do not arrive, and those whose client does not read."""

    limits: Limits
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    idle_since = 0.0

    def connection_made(self, transport: Any) -> None:
        """Start the time for the headers."""
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        if len(self.connections) > self.limits.connections + _SPARE:
            self._make_room()
        self._watch_headers()

    def _make_room(self) -> None:
        """End the connection that has been without a request for the longest time; this one where all have some."""
        idle = [one for one in self.connections if isinstance(one, _DeadlineProtocol) and not one.is_busy()]
        oldest = min(idle, key=lambda one: one.idle_since, default=self)
        self.connections.discard(oldest)
        oldest.transport.abort()

    def is_busy(self) -> bool:
        """Return True while a request is answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Stop it as soon as there is a request, and start it again with the next."""
        super().data_received(data)
        self._watch_headers()

    def on_response_complete(self) -> None:
        """Leave the time until the next request to uvicorn's own timer."""
        super().on_response_complete()
        self.idle_since = self.loop.time()
        self._stop_reading()

    def _watch_headers(self) -> None:
        if self.is_busy():
            self._stop_reading()
        elif self._reading is None:
            self._reading = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def pause_writing(self) -> None:
        """Start the time for the client to read."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop it."""
        super().resume_writing()
        self._stop_writing()

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_reading()
        self._stop_writing()
        super().connection_lost(exc)


def make_protocol(limits: Limits) -> type[H11Protocol]:
    """Return the protocol with the limits of a server."""
    return type("DeadlineProtocol", (_DeadlineProtocol,), {"limits": limits})
