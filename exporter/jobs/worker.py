"""Does one job in a process of its own: `python -m diffoundry.exporter.jobs.worker JOB`, or forked.

A worker reports on standard output, one JSON object a line.
"""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffoundry.exporter.jobs.dispatch import run_job
from diffoundry.exporter.jobs.job import Job, JobResult
from diffoundry.exporter.jobs.storage import is_storage_error, storage_sentence
from diffoundry.runtime.bench.machine import peak_rss
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.engines.memory import free_at_once
from diffoundry.runtime.errors import DiffoundryError

__all__ = ["say", "work"]


class _Phases:
    """Reports each phase as it begins, and records its seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        say({"phase": name})
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start


def work(job_file: Path) -> int:
    """Run the job described in a file and report its result.

    Args:
        job_file: A job as JSON.

    Returns:
        The exit code of the process: 0, or 1 when the result is an error.
    """
    threading.Thread(target=_die_with_parent, daemon=True).start()
    free_at_once()
    job = from_json(typing.cast("type[Job]", Job), json.loads(job_file.read_text(encoding="utf-8")))
    phases = _Phases()
    try:
        result = run_job(job, phases, lambda text: say({"phase": text}))
    except DiffoundryError as error:
        result = JobResult(error=str(error))
    except MemoryError:
        result = JobResult(error=f"{job.label}: out of memory; close other programs or use a larger machine")
    except Exception as error:  # noqa: BLE001  # any error of the libraries is reported, with its traceback
        if is_storage_error(error, job.folder):
            result = JobResult(error=storage_sentence(error, job.label, job.folder))
        else:
            sentence = f"{job.label}: {type(error).__name__}: {str(error)[:2000]}"
            result = JobResult(error=sentence, details=traceback.format_exc())
    say({"result": to_json(replace(result, seconds=phases.seconds, peak_rss=_peak_rss()))})
    return 0 if result.error is None else 1


def _peak_rss() -> int:
    """Of this process, or of the largest process that it started."""
    own = peak_rss() or 0
    if sys.platform == "win32":
        return own
    import resource

    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, started if sys.platform == "darwin" else started * 1024)


def say(message: Mapping[str, Any]) -> None:
    """Write a message for the process that started this one."""
    sys.__stdout__.write(json.dumps(message) + "\n")  # type: ignore[union-attr]  # a worker always has one
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _die_with_parent() -> None:
    """End this process when standard input closes: a killed export leaves no worker behind."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
