"""Counts the calls under way in each engine, so that an engine is closed after the last of them."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from diffoundry.runtime.engines.protocol import Engine

__all__ = ["EngineLeases"]


class EngineLeases:
    """The engines in use. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[int] = Counter()
        self._retired: dict[int, Engine] = {}

    def take(self, engine: Engine) -> None:
        """Count a call of an engine. The caller makes sure that it is not being closed, and calls `give_back`."""
        with self._lock:
            self._calls[id(engine)] += 1

    @contextmanager
    def give_back(self, engine: Engine) -> Iterator[None]:
        """End a call of an engine with the block, and close the engine when this was asked meanwhile."""
        try:
            yield
        finally:
            with self._lock:
                self._calls[id(engine)] -= 1
                last = self._calls[id(engine)] == 0
                retired = self._retired.pop(id(engine), None) if last else None
                if last:
                    del self._calls[id(engine)]
            if retired is not None:
                retired.close()

    def close(self, engine: Engine) -> None:
        """Close an engine now, or after the calls under way."""
        with self._lock:
            busy = self._calls[id(engine)] > 0
            if busy:
                self._retired[id(engine)] = engine
        if not busy:
            engine.close()
