"""Keeps the memory of this process within a limit, or refuses with the memory that it takes."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffoundry.runtime.engines.available_memory import describe_bytes
from diffoundry.runtime.engines.memory import drop_mapped, free_at_once, trim
from diffoundry.runtime.engines.resident_memory import forget_peak, peak_rss, resident_bytes
from diffoundry.runtime.errors import InputError

__all__ = ["MemoryLimit"]

_INTERVAL = 0.02
"""Seconds between two looks at the mapped files of an engine that is being opened."""

_ADVICE = (
    "allow that much, use a bundle in int8-weights or int4-weights, choose a smaller size, or turn VAE tiling on with "
    "a tile_sample_min_size below that of the image, which changes the image"
)


class MemoryLimit:
    """The memory that this process may take, mapped files included.

    Engines are closed before others open. While an engine opens, the pages of its mapped files are given back as fast
    as the vendor's library reads them, so that weights are not counted twice.
    """

    def __init__(self, limit: int, folder: Path) -> None:
        """Begin to measure.

        Args:
            limit: Bytes.
            folder: The bundle, whose mapped files are given back.

        Raises:
            InputError: This system does not report the memory of a process, or the process holds as much already.
        """
        self._limit = limit
        self._folder = folder.resolve()
        self._peak = 0  # before the call that is being measured
        free_at_once()
        forget_peak()
        held = resident_bytes()
        if held is None:
            raise InputError(
                f"memory: got {describe_bytes(limit)}, and this system does not report the memory of a process; "
                f"leave it out"
            )
        self.check_weights((), 0)

    @property
    def room(self) -> int:
        """Bytes that are left."""
        return max(self._limit - (resident_bytes() or 0), 0)

    @property
    def peak(self) -> int:
        """Most bytes that this process has held since `begin`."""
        return peak_rss() or 0

    def begin(self) -> int:
        """Begin to measure a call, and return the bytes that this process holds."""
        self._peak = max(self._peak, self.peak)
        forget_peak()
        return resident_bytes() or 0

    def check_weights(self, names: Sequence[str], weights: int, which: str = "the weights") -> None:
        """Refuse components whose weights alone do not fit beside what this process holds now.

        Args:
            names: Components that are open at the same time.
            weights: Their bytes.
            which: Words for these weights.

        Raises:
            InputError: They do not fit.
        """
        needed = (resident_bytes() or 0) + weights
        if needed > self._limit:
            words = f"this process with {which} of {' and '.join(map(repr, names))}" if names else "this process"
            raise InputError(
                f"memory: got {describe_bytes(self._limit)}, and {words} takes at least {describe_bytes(needed)}; "
                f"{_ADVICE}"
            )

    def check(self, name: str) -> None:
        """Refuse the last component that opened or ran if the process has taken more memory than it may.

        Args:
            name: The component.

        Raises:
            InputError: It has.
        """
        peak, self._peak = max(self._peak, self.peak), 0
        if peak > self._limit:
            forget_peak()
            raise InputError(
                f"memory: got {describe_bytes(self._limit)}, and this process took {describe_bytes(peak)} with "
                f"component {name!r}; {_ADVICE}"
            )

    @contextmanager
    def opening(self, name: str) -> Iterator[None]:
        """Give back the pages of the bundle's mapped files while a component opens, and `check` it then."""
        trim()
        opened = threading.Event()

        def drop() -> None:
            while not opened.wait(_INTERVAL):
                drop_mapped(self._folder)

        thread = threading.Thread(target=drop, name="drop mapped pages", daemon=True)
        thread.start()
        try:
            yield
        finally:
            opened.set()
            thread.join()
        drop_mapped(self._folder)
        trim()
        self.check(name)
