"""Runs the HTTP server in a thread of the test, on a free port of this machine."""

import contextlib
import threading
import time

from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.serving.server.limits import Limits
from diffoundry.serving.server.make_state import make_state
from diffoundry.serving.server.run import bind, make_server


class Running:
    """A server under way; `url` is its address, `state` what its endpoints share."""

    def __init__(self, server, state, port):
        self.server, self.state, self.port = server, state, port
        self.url = f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def running_server(pipelines, *, limits=None, dispatcher=None, **options):
    """Answer requests until the block is left; `options` are those of `make_state`, `dispatcher` of `Dispatcher`."""
    state = make_state(pipelines, Dispatcher(**(dispatcher or {})), limits or Limits(drain_seconds=1), **options)
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = make_server(state)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until = time.monotonic() + 60
        while not (server.started and state.loaded):
            assert time.monotonic() < until
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Running(server, state, port)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def wait_until(condition, seconds=30):
    """Wait for a state that another thread brings about."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.01)
