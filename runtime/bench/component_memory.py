"""Peak memory of each component of a pipeline, from the peaks of the whole process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffoundry.runtime.engines.resident_memory import forget_peak, peak_rss, resident_bytes

__all__ = ["ComponentMemory"]


class ComponentMemory:
    """Notes by how much the process grows while a component opens and while it runs. One component at a time.

    Attributes:
        highest: Peak of the process so far in bytes; 0 where the system does not report it.
    """

    def __init__(self) -> None:
        self.highest = 0
        self._held: dict[str, int] = {}
        self._peaks: dict[str, int] = {}
        self._known = self._begin()

    @property
    def peaks(self) -> Mapping[str, int]:
        """Component to its peak in bytes: of what it holds, and of one call on top. Empty where unknown."""
        return self._peaks if self._known else {}

    @contextmanager
    def opening(self, name: str) -> Iterator[None]:
        """Measure the block that opens a component."""
        self._begin()
        yield
        self._note(name)

    def called(self, name: str) -> None:
        """Note the end of a component's call; all memory since the last note is counted for it."""
        self._note(name)

    def _note(self, name: str) -> None:
        before, held = self._resident, self._held.get(name, 0)
        peak = peak_rss() or 0
        self._peaks[name] = max(self._peaks.get(name, 0), held + peak - before)
        self._begin()
        self._held[name] = held + max(self._resident - before, 0)

    def _begin(self) -> bool:
        self.highest = max(self.highest, peak_rss() or 0)
        possible = forget_peak()
        self._resident = resident_bytes() or 0
        return possible
