"""Measured choices between two ways to compute the same: kept per machine and library version in the user's cache."""

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.cache_folder import cache_folder
from diffoundry.runtime.errors import BundleError, InputError

__all__ = [
    "ATTENTION",
    "MODES",
    "VARIABLE",
    "MeasuredChoices",
    "Timing",
    "choice_mode",
    "choices_folder",
    "describe_choices",
    "time_in_turns",
]

logger = logging.getLogger(__name__)

VARIABLE = "DIFFOUNDRY_NATIVE"
"""Environment variable for the mode, where `EngineOptions.native` is True."""

ATTENTION = "native attention"
"""Key of an engine's metadata."""

MODES = {
    "measured": "what is faster here, by a short measurement that is kept",
    "always": "our own code wherever it fits",
    "never": "the engine's own code",
    "fixed": "our own code where it was faster on our machines, without measuring",
}

_FORMAT = 1
_MARGIN = 0.97
"""Our own code has to take less than this part of the engine's time: measurements differ by some per cent."""

_ROUNDS, _MOST_ROUNDS = 3, 9
_SECONDS = 0.25
_LARGEST_FILE = 1 << 20
_MOST_ENTRIES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Medians of one measurement.

    Attributes:
        native: Seconds of our own code.
        engine: Seconds of the engine's.
    """

    native: float
    engine: float

    @property
    def native_wins(self) -> bool:
        """True if our own code is used."""
        return self.native < _MARGIN * self.engine


def choice_mode(option: bool | str) -> str:
    """Return one of `MODES`.

    Args:
        option: `EngineOptions.native`: a mode; True for that of the environment variable, or "measured"; False for
            "never".

    Raises:
        InputError: The variable holds another word.
    """
    if option is False:
        return "never"
    if option is not True:
        return str(option)
    named = os.environ.get(VARIABLE) or "measured"
    if named not in MODES:
        raise InputError(f"{VARIABLE}: got {named!r}, expected one of {', '.join(MODES)}; or unset it for 'measured'")
    return named


def choices_folder() -> Path:
    """Return the folder in the user's cache that holds measured choices."""
    return cache_folder("choices")


def describe_choices(cpu: str, folder: Path | None = None) -> list[str]:
    """Return a line for each measurement of a processor, of every set of libraries that is kept.

    Args:
        cpu: As in `Machine.cpu`.
        folder: As in `MeasuredChoices`.
    """
    lines: dict[str, None] = {}
    for path in sorted((folder or choices_folder()).glob("*.json")):
        machine, seconds = _read(path)
        if machine.get("cpu") != cpu:
            continue
        for name, timing in seconds.items():
            which = "our kernel" if timing.native_wins else "the engine"
            lines[f"{name}: {timing.native / timing.engine:.2f} of the engine's time, so {which}"] = None
    return list(lines)


def time_in_turns(
    native: Callable[[], Any], engine: Callable[[], Any], clock: Callable[[], float] = perf_counter
) -> Timing:
    """Measure two callables in turns, each once before it counts: 3 rounds, and up to 9 while these take 0.25 s.

    Args:
        native: Our own code.
        engine: The engine's.
        clock: Returns seconds.
    """
    seconds: dict[Callable[[], Any], list[float]] = {native: [], engine: []}
    for run in seconds:
        run()
    begin = clock()
    while len(seconds[native]) < _ROUNDS or (len(seconds[native]) < _MOST_ROUNDS and clock() - begin < _SECONDS):
        for run, found in seconds.items():
            start = clock()
            run()
            found.append(clock() - start)
    return Timing(native=median(seconds[native]), engine=median(seconds[engine]))


class MeasuredChoices:
    """Measurements of one machine with one set of libraries. Safe to share between threads and processes.

    Each is made once, and kept in a file that is written beside and renamed. Of two processes that write at once, one
    may lose its newest entry, which is measured again. A damaged file is replaced. Where the folder cannot be written,
    entries last as long as the process.

    Attributes:
        path: The file.
    """

    def __init__(self, machine: Mapping[str, Any], folder: Path | None = None) -> None:
        """Nothing is read yet.

        Args:
            machine: Processor, libraries and whatever else the measurements depend on, for JSON.
            folder: Of the file; None for `choices_folder()`.
        """
        self._machine = dict(machine)
        digest = hashlib.sha256(json.dumps(self._machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = (choices_folder() if folder is None else folder) / f"{digest}.json"
        self._known: dict[str, Timing] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Timing | None:
        """Return a measurement that was made before, or None."""
        if name not in self._known:
            self._known = {**self._read(), **self._known}
        return self._known.get(name)

    def decide(self, name: str, measure: Callable[[], Timing]) -> Timing:
        """Return a measurement, made now if it never was. No two are made at the same time in a process.

        Args:
            name: Says what is measured, sizes included.
            measure: Makes it.
        """
        with self._lock:
            found = self.find(name)
            if found is None:
                found = measure()
                self._known[name] = found
                self._write()
                logger.debug("%s: %s, kept in %s", name, found, self.path)
            return found

    def _read(self) -> dict[str, Timing]:
        machine, seconds = _read(self.path)
        return seconds if machine == self._machine else {}

    def _write(self) -> None:
        self._known = {**self._read(), **self._known}
        kept = dict(list(self._known.items())[-_MOST_ENTRIES:])
        seconds = {name: asdict(timing) for name, timing in sorted(kept.items())}
        content = {"format": _FORMAT, "machine": self._machine, "seconds": seconds}
        try:
            write_text(self.path, json.dumps(content, indent=2) + "\n")
        except BundleError as error:
            logger.debug("%s: the measurement lasts as long as this process", error)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Timing]]:
    """Return the machine and the measurements of a file; nothing of one that is missing or damaged."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            return {}, {}
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return {}, {}
        return dict(content["machine"]), {str(name): _timing(entry) for name, entry in content["seconds"].items()}
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.debug("%s: cannot be read (%s); what it holds is measured again", path, error)
        return {}, {}


def _timing(entry: Any) -> Timing:
    timing = Timing(**entry)
    numbers: Sequence[Any] = (timing.native, timing.engine)
    if any(isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one) for one in numbers):
        raise ValueError(f"got {entry!r}, expected seconds")
    if min(numbers) <= 0:
        raise ValueError(f"got {entry!r}, expected more than 0 seconds")
    return timing
