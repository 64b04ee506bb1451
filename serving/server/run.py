"""Runs the application with uvicorn until a signal stops it."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn

from diffoundry.runtime.errors import InputError
from diffoundry.serving.server.app import create_app
from diffoundry.serving.server.protocol import make_protocol
from diffoundry.serving.server.state import ServerState

__all__ = ["bind", "make_server", "serve"]


class _Server(uvicorn.Server):
    """Tells the application as soon as it is to stop."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new work, and let the rest finish."""
        self._state.draining = True
        super().handle_exit(sig, frame)


def make_server(state: ServerState) -> uvicorn.Server:
    """Return the server of a state, not yet started."""
    limits = state.limits
    config = uvicorn.Config(
        create_app(state),
        http=make_protocol(limits),
        loop="asyncio",  # not uvloop, which uvicorn takes where another package has installed it
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
    )
    server = _Server(config, state)
    state.connections = server.server_state.connections
    return server


def bind(host: str, port: int) -> socket.socket:
    """Open the address before the bundles are, so that a taken one is refused at once.

    Raises:
        InputError: It cannot be opened.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"--host {host} --port {port}: cannot be opened ({reason}); choose another port, or 0 for a free one"
        ) from error
    return listener


def serve(state: ServerState, listener: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish what is under way."""
    with _signals_end():
        make_server(state).run(sockets=[listener])


@contextlib.contextmanager
def _signals_end() -> Iterator[None]:
    """Let signals end the server alone: uvicorn raises them again afterwards, which would end the process by them."""
    old = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in old.items():
            signal.signal(one, handler)
