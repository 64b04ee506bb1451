"""The memory that a row of an engine call takes, measured while calls are made."""

import threading
from weakref import WeakKeyDictionary

from diffoundry.runtime.engines.available_memory import available_memory, own_memory

__all__ = ["RowMemory"]


class RowMemory:
    """Measures the growth of this process in engine calls. Safe to share between threads.

    An engine keeps what its largest call took, so only calls that are larger than all before need more. Where the
    system does not report the peak of a process (it does on Linux), nothing is measured and nothing is limited.
    """

    def __init__(self, limit: int | None) -> None:
        """Measure nothing yet.

        Args:
            limit: Bytes that this process may hold; None for what the machine has.
        """
        self._limit = limit
        self._lock = threading.Lock()
        self._largest: WeakKeyDictionary[object, dict[str, int]] = WeakKeyDictionary()
        self._bytes: WeakKeyDictionary[object, float] = WeakKeyDictionary()

    def record(self, model: object, component: str, size: int, grown: int) -> None:
        """Store a call.

        Args:
            model: Owner of the engine, such as its session; what was measured is forgotten with it.
            component: Name of the component.
            size: Rows times pixels.
            grown: Bytes by which the peak of the process exceeds its memory before the call.
        """
        with self._lock:
            largest = self._largest.setdefault(model, {})
            before = largest.get(component, 0)
            if size > before:
                largest[component] = size
                self._bytes[model] = max(self._bytes.get(model, 0.0), grown / (size - before))

    def fits(self, model: object, component: str, size: int) -> bool:
        """Return whether a call of `size` rows times pixels fits into the memory that is left."""
        with self._lock:
            more = size - self._largest.get(model, {}).get(component, 0)
            needed = more * self._bytes.get(model, 0.0)
        return more <= 0 or needed <= self.free()

    def needed(self, model: object, size: int) -> float:
        """Return the bytes that a run of `size` rows times pixels takes by what was measured; 0 before that."""
        with self._lock:
            return size * self._bytes.get(model, 0.0)

    def free(self) -> float:
        """Return the bytes that this process can still take."""
        own = own_memory()[0]
        machine = available_memory()
        left = float("inf") if machine is None else float(machine - own)
        return left if self._limit is None else min(left, float(self._limit - own))
