"""Starts the process that builds an engine, reports its progress, and stops it when the caller cancels."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.tensorrt.build.job import BuildJob, BuildResult, Failure
from diffoundry.targets.tensorrt.sdk import SDKS

__all__ = ["run_worker"]

_PATIENCE = 20
"""Seconds that a cancelled build gets to reach its next step, before it is killed."""

_STEPS = {"Optimizing graph": "fusing", "Computing profile costs": "compiling"}
"""Of the phases that the library names, those that take the time."""


def run_worker(job: BuildJob, progress: Callable[[str], None], where: str) -> BuildResult:
    """Build an engine in a process of its own, whose memory goes with it.

    An exception out of `progress`, or Ctrl-C, cancels the build.

    Args:
        job: With absolute paths.
        progress: Called with a short text as the build goes on.
        where: Name of the engine in messages.

    Raises:
        EngineError: There is no engine; one sentence with node, operator and hint.
    """
    with tempfile.TemporaryDirectory(prefix="diffoundry-") as scratch:
        job_file = Path(scratch) / "job.json"
        job_file.write_text(json.dumps(to_json(job)), encoding="utf-8")
        said = Path(scratch) / "said.txt"
        with said.open("w+b") as stream:
            worker = subprocess.Popen(
                [sys.executable, "-m", "diffoundry.targets.tensorrt.build.worker", str(job_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=os.name == "posix",  # so that Ctrl-C reaches it through us, and it can end in order
            )
            try:
                result = _listen(worker, progress)
            finally:
                _stop(worker)
        if result is None:
            raise EngineError(_died(job, worker.returncode, said, where))
    if result.failure is not None:
        raise EngineError(_sentence(job, result.failure, where))
    return result


def _listen(worker: "subprocess.Popen[str]", progress: Callable[[str], None]) -> BuildResult | None:
    """Read the worker's lines until it ends; the library may print between ours."""
    shown = ""
    for line in worker.stdout or ():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and "result" in message:
            return from_json(BuildResult, message["result"])
        if isinstance(message, dict) and message.get("phase") in _STEPS:
            words = f"{_STEPS[message['phase']]} {10 * (10 * message['done'] // max(message['of'], 1))} %"
            if words != shown:
                shown = words
                progress(words)
    return None


def _stop(worker: "subprocess.Popen[str]") -> None:
    """Cancel a build that still runs, then end its process."""
    if worker.poll() is None and worker.stdin is not None:
        try:
            worker.stdin.write("cancel\n")
            worker.stdin.flush()
            worker.wait(_PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            pass
    worker.kill()
    worker.communicate()


def _sentence(job: BuildJob, failure: Failure, where: str) -> str:
    product = SDKS[job.target].product
    place = "".join(
        f", {what} {name!r}" for what, name in (("node", failure.node), ("operator", failure.operator)) if name
    )
    return f"{where}{place}: {product} refused it: {failure.message.rstrip('.')}. What to do: {failure.hint}"


def _died(job: BuildJob, code: int, said: Path, where: str) -> str:
    tail = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-10:]
    reason = "killed, most likely for want of memory" if code == -9 else f"ended with code {code}"
    return (
        f"{where}: the process that builds the {SDKS[job.target].product} engine was {reason}; close other "
        f"programs or allow smaller sizes, and run the same command again" + ("\n" + "\n".join(tail) if tail else "")
    )
