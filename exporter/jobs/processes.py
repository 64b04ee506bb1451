"""Runs each job in a process of its own, forked where that is safe, and returns its result or raises its error."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from diffoundry.exporter.jobs.job import CalibrationJob, Job, JobResult, PortableJob
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.errors import BundleError

__all__ = ["JobProcesses"]

_JOBS = "diffoundry.exporter.jobs"

_TRACING = (
    "diffoundry.exporter.steps.write_portable",
    "diffoundry.exporter.checkpoints.weights",
    "accelerate",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
    "torch._dynamo",
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
    "diffoundry.exporter.steps.fast_tracing:warm_up",
)
"""Modules that every portable job needs, most of which torch and diffusers import late. Other jobs need no PyTorch."""

_LOWERING = ("diffoundry.exporter.steps.lower",)
"""Modules that every other job needs."""

_KILLED = -9

Progress = Callable[[str, str], None]


class JobProcesses:
    """Runs jobs one at a time, each in a process that gives all its memory back.

    On Linux the process is forked from a server that has imported PyTorch once. The server starts with the first job
    and ends with this context. Elsewhere forking is unsafe, and each job starts a new interpreter.
    """

    def __init__(self, *, fork: bool = sys.platform == "linux") -> None:
        self._fork = fork
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, job: Job, progress: Progress) -> JobResult:
        """Do one job.

        Args:
            job: The job.
            progress: Called with (label of the job, phase) as each phase begins.

        Raises:
            BundleError: The worker reported an error, or ended without a result (killed, out of memory).
        """
        with tempfile.TemporaryDirectory(prefix="diffoundry-") as scratch:
            job_file, log_file = Path(scratch) / "job.json", Path(scratch) / "log.txt"
            job_file.write_text(json.dumps(to_json(job)), encoding="utf-8")
            log_file.touch()
            server = self._server_for(job)
            if server is None:
                result, code = _spawn(job, job_file, log_file, progress)
            else:
                result, code = self._forked(server, job, job_file, log_file, progress)
            if result is None:
                raise BundleError(_died(job, code, log_file))
        if result.error is not None:
            raise BundleError(result.error + (f"\n{result.details}" if result.details else ""))
        return result

    def _server_for(self, job: Job) -> "subprocess.Popen[str] | None":
        """Start the server with the modules of the first job; None where forking is unsafe."""
        if self._server is None and self._fork:
            modules = (*_TRACING, *_LOWERING) if isinstance(job, PortableJob) else _LOWERING
            command = [sys.executable, "-m", f"{_JOBS}.fork_server", *modules]
            self._server = _start(command, subprocess.DEVNULL, own_group=True)
            ready = json.loads(self._server.stdout.readline() or "{}")  # type: ignore[union-attr]  # it is a pipe
            if not ready.get("forks"):
                self._fork = False
                self._stop()
        return self._server

    def _forked(
        self, server: "subprocess.Popen[str]", job: Job, job_file: Path, log_file: Path, progress: Progress
    ) -> tuple[JobResult | None, int]:
        try:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps({"job": str(job_file), "log": str(log_file)}) + "\n")
            server.stdin.flush()
            result, code = _listen(server.stdout, job, progress)
        except BaseException:  # such as Ctrl-C: no job may go on
            self._stop()
            raise
        if code is None:
            code = server.wait()
            self._stop()
        return result, code

    def _stop(self) -> None:
        """End the server and the job that it runs; both are in the server's process group."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.communicate()
            self._server = None


def _spawn(job: Job, job_file: Path, log_file: Path, progress: Progress) -> tuple[JobResult | None, int]:
    """Do a job in a new interpreter."""
    with log_file.open("wb") as log:
        worker = _start([sys.executable, "-m", f"{_JOBS}.worker", str(job_file)], log.fileno())
        try:
            result, _ = _listen(worker.stdout or (), job, progress)
            code = worker.wait()
        finally:
            worker.kill()
            worker.communicate()
    return result, code


def _start(command: list[str], log: int, *, own_group: bool = False) -> "subprocess.Popen[str]":
    group = 0 if own_group else None
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, process_group=group
    )


def _listen(lines: Iterable[str], job: Job, progress: Progress) -> tuple[JobResult | None, int | None]:
    """Read a worker's messages until the job ends; other libraries may print between them.

    Returns:
        The result, or None; and the exit code of the forked process, or None when the messages ended without one.
    """
    result = None
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if not isinstance(message, dict):
            continue
        if "phase" in message:
            progress(job.label, message["phase"])
        elif "result" in message:
            result = from_json(JobResult, message["result"])
        elif "ended" in message:
            return result, message["ended"]
    return result, None


def _died(job: Job, code: int, log_file: Path) -> str:
    tail = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
    reason = "was killed, most likely because memory ran out" if code == _KILLED else f"ended with code {code}"
    advice = "finished jobs are kept, run the same command again to continue"
    if isinstance(job, CalibrationJob) and code == _KILLED:
        advice += "; or export int8-weights or int4-weights with --no-calibration, which generates no image"
    return f"{job.label}: its process {reason}; {advice}" + ("\n" + "\n".join(tail) if tail else "")
