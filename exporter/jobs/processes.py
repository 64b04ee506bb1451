"""Starts workers, listens to them, and turns their end into an outcome or an error."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from diffoundry.exporter.jobs.job import Job, Outcome
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.errors import BundleError

__all__ = ["run_job"]


def run_job(job: Job, progress: Callable[[str, str], None]) -> Outcome:
    """Do one job in a process of its own.

    Args:
        job: What to do.
        progress: Called with (label of the job, phase) as each phase begins.

    Raises:
        BundleError: The worker reported an error, or ended without a word (killed, out of memory).
    """
    with tempfile.TemporaryDirectory(prefix="diffoundry-") as scratch:
        job_file = Path(scratch) / "job.json"
        job_file.write_text(json.dumps(to_json(job)), encoding="utf-8")
        log_file = Path(scratch) / "log.txt"
        with log_file.open("w+b") as log:
            command = [sys.executable, "-m", "diffoundry.exporter.jobs.worker", str(job_file)]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                outcome = _listen(worker, job, progress)
            finally:
                worker.kill()
                worker.communicate()
        if outcome is None:
            raise BundleError(_died(job, worker.returncode, log_file))
    if outcome.error is not None:
        raise BundleError(outcome.error + (f"\n{outcome.details}" if outcome.details else ""))
    return outcome


def _listen(worker: "subprocess.Popen[str]", job: Job, progress: Callable[[str, str], None]) -> Outcome | None:
    """Read the worker's lines until it ends; other libraries may print between ours."""
    outcome = None
    for line in worker.stdout or ():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and "phase" in message:
            progress(job.label, message["phase"])
        elif isinstance(message, dict) and "outcome" in message:
            outcome = from_json(Outcome, message["outcome"])
    worker.wait()
    return outcome


def _died(job: Job, code: int, log_file: Path) -> str:
    tail = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
    reason = "killed, most likely for want of memory" if code == -9 else f"ended with code {code}"
    return (
        f"{job.label}: its process was {reason}; what is finished is kept, "
        f"run the same command again to continue" + ("\n" + "\n".join(tail) if tail else "")
    )
