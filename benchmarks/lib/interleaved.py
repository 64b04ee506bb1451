"""Runs candidates in turns, each in a process of its own, so that every ratio comes from one run on one machine.

A candidate is a function `open(**options) -> (call, facts)`: it loads and warms up, `call()` does the work once and
returns its seconds (and may return a result of any picklable kind beside them).
"""

import importlib
import multiprocessing
import resource
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["BenchmarkRow", "Result", "machine", "run_in_turns"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One row of a table.

    Attributes:
        name: Name in the tables.
        opener: "module:function" that opens it, in a process of its own.
        options: The function's arguments.
    """

    name: str
    opener: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Result:
    """Result of a candidate.

    Attributes:
        load: Seconds to open, until the first call could begin.
        first: Seconds of the first call.
        seconds: Seconds of every other call.
        facts: Its own description, such as its library's version.
        value: The last result of its calls.
        peak_rss: Peak resident memory of its process in bytes.
        fault: Reason why it failed, or None.
    """

    load: float = 0.0
    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    peak_rss: int = 0
    fault: str | None = None

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds)


def run_in_turns(
    candidates: Sequence[BenchmarkRow], rounds: int, progress: Callable[[str], None] = print, *, together: bool = True
) -> dict[str, Result]:
    """Open every candidate, then let each do one call a round.

    Args:
        candidates: The rows.
        rounds: Calls of each after the first, which is kept apart.
        progress: Called with a line about the progress.
        together: True if all stay open from the first round to the last. Otherwise one is open at a time, and each
            round opens it again, for machines whose memory does not hold them all.
    """
    results = {candidate.name: Result() for candidate in candidates}
    if together:
        open_now = {candidate.name: _Process(candidate, results[candidate.name], progress) for candidate in candidates}
        for number in range(rounds + 1):
            for name, process in open_now.items():
                process.call()
                progress(f"round {number}/{rounds} {name}: {results[name].fault or ''}{_last(results[name])}")
        for process in open_now.values():
            process.close()
        return results
    for number in range(rounds):
        for candidate in candidates:
            process = _Process(candidate, results[candidate.name], progress)
            process.call(first=True)
            process.call()
            process.close()
            progress(f"round {number + 1}/{rounds} {candidate.name}: {_last(results[candidate.name])}")
    return results


def machine() -> str:
    """Describe the processor and whether it has AMX, for the head of a table."""
    from diffoundry.runtime.bench.machine import machine_facts

    facts = machine_facts()
    return f"{facts.cpu}, {facts.cores} CPUs, {'AMX' if 'amx_bf16' in facts.features else 'no AMX'}"


def _last(result: Result) -> str:
    return f"{result.seconds[-1]:.3f} s" if result.seconds else f"first {result.first:.3f} s"


class _Process:
    def __init__(self, candidate: BenchmarkRow, result: Result, progress: Callable[[str], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self._result = result
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(candidate, theirs), daemon=True)
        self._process.start()
        theirs.close()
        answer = self._ask(None)
        result.load, result.facts = answer.get("seconds", 0.0), answer.get("facts", {})
        progress(f"{candidate.name}: {result.fault or f'open in {result.load:.1f} s'}")

    def call(self, *, first: bool = False) -> None:
        if self._result.fault is not None:
            return
        answer = self._ask("call")
        if self._result.fault is not None:
            return
        if first or not self._result.first:
            self._result.first = answer["seconds"]
        else:
            self._result.seconds.append(answer["seconds"])
        self._result.value, self._result.peak_rss = answer["value"], max(answer["rss"], self._result.peak_rss)

    def close(self) -> None:
        if self._process.is_alive():
            self._pipe.send("end")
        self._process.join(30)
        self._process.kill()

    def _ask(self, word: str | None) -> dict[str, Any]:
        try:
            if word is not None:
                self._pipe.send(word)
            answer: dict[str, Any] = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            answer = {"fault": "its process ended, most likely for want of memory"}
        if "fault" in answer:
            self._result.fault = answer["fault"]
        return answer


def _serve(candidate: BenchmarkRow, pipe: Connection) -> None:
    try:
        module, _, name = candidate.opener.partition(":")
        start = time.perf_counter()
        call, facts = getattr(importlib.import_module(module), name)(**candidate.options)
        pipe.send({"seconds": time.perf_counter() - start, "facts": facts})
        while pipe.recv() == "call":
            start = time.perf_counter()
            value = call()
            seconds = time.perf_counter() - start
            if isinstance(value, tuple):
                seconds, value = value
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            pipe.send({"seconds": seconds, "value": value, "rss": peak})
    except Exception as error:  # noqa: BLE001  # a baseline that fails is a row of the table
        traceback.print_exc()
        pipe.send({"fault": f"{type(error).__name__}: {str(error)[:200]}"})
