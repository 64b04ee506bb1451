"""The process that does one job and gives its memory back: `python -m diffoundry.exporter.jobs.worker JOB`."""

import contextlib
import errno
import json
import os
import sys
import threading
import time
import traceback
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffoundry.exporter.jobs.job import Job, Result, outcome_of, perform
from diffoundry.runtime.bench.machine import peak_rss
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.engines.memory import free_at_once
from diffoundry.runtime.errors import DiffoundryError

__all__ = ["main"]


class _Phases:
    """Reports each phase on standard output as it begins, and keeps the seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        _say({"phase": name})
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start


def main(job_file: str) -> int:
    """Run the job described in `job_file`; the last line on standard output is the outcome."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    free_at_once()
    job = from_json(typing.cast("type[Job]", Job), json.loads(Path(job_file).read_text(encoding="utf-8")))
    phases = _Phases()
    work: Result = ()
    error, details = None, None
    try:
        work = perform(job, phases, lambda words: _say({"phase": words}))
    except DiffoundryError as caught:
        error = str(caught)
    except OSError as caught:
        error = _storage_sentence(caught, job)
        details = traceback.format_exc()
    except MemoryError:
        error = f"{job.label}: out of memory; close other programs or use a larger machine"
    except Exception as caught:  # noqa: BLE001  # whatever the exporters raise is reported, with its traceback
        error = f"{job.label}: {type(caught).__name__}: {str(caught)[:2000]}"
        details = traceback.format_exc()
    outcome = outcome_of(work, seconds=phases.seconds, peak_rss=_peak_rss(), error=error, details=details)
    _say({"outcome": to_json(outcome)})
    return 0 if error is None else 1


def _storage_sentence(error: OSError, job: Job) -> str:
    where = error.filename or job.folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"{job.label}: no space left while writing {where} ({error.strerror}); what is finished is "
            f"kept, free some space and run the same command again"
        )
    return f"{job.label}: {where}: {error.strerror or error}"


def _peak_rss() -> int:
    """Of this process, or of the largest that it started."""
    own = peak_rss() or 0
    if sys.platform == "win32":
        return own
    import resource

    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, started if sys.platform == "darwin" else started * 1024)


def _say(message: Mapping[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(message) + "\n")  # type: ignore[union-attr]  # a worker always has one
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _die_with_parent() -> None:
    """End this process when the parent's end of standard input closes: a killed export leaves no worker behind."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
