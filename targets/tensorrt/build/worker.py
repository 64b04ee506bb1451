"""Builds one engine in a process of its own: `python -m diffoundry.targets.tensorrt.build.worker JOB`."""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffoundry.runtime.bench.machine import peak_rss
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.errors import EngineError
from diffoundry.runtime.install_hint import install_command
from diffoundry.targets.tensorrt.build.engine_stats import describe_structure
from diffoundry.targets.tensorrt.build.job import BuildJob, BuildResult, Failure
from diffoundry.targets.tensorrt.build.network import configure, parse
from diffoundry.targets.tensorrt.build.timing_cache import TimingCache
from diffoundry.targets.tensorrt.failures import build_failure
from diffoundry.targets.tensorrt.message_log import MessageLog, make_logger, make_monitor
from diffoundry.targets.tensorrt.sdk import RTX, SDKS

__all__ = ["build", "main"]


def build(job: BuildJob, trt: Any, log: MessageLog, monitor: Any) -> BuildResult:
    """Parse, compile and write the plan.

    Args:
        job: Job to build; its paths are relative to the working directory.
        trt: The Python module of the SDK.
        log: Destination of `trt`'s log, through the logger made for it.
        monitor: An `IProgressMonitor`, which may cancel.
    """
    started = time.perf_counter()
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    failure = parse(trt, network, log, Path(job.graph))
    if failure is not None:
        return BuildResult(failure=failure, warnings=log.warnings())
    refused = [name for name in job.refittable if not network.mark_weights_refittable(name)]
    if refused:
        return BuildResult(failure=_unknown_weights(refused), warnings=log.warnings())
    config = configure(trt, builder, job, monitor)
    parsed = time.perf_counter()
    with TimingCache(job.timing_cache, config):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        return BuildResult(failure=build_failure(log.errors()), warnings=log.warnings())
    Path(job.plan).write_bytes(plan)
    metadata = _structure(job, log, str(trt.__version__)) | {
        "plan_bytes": plan.nbytes,
        "parse_seconds": round(parsed - started, 2),
        "build_seconds": round(time.perf_counter() - parsed, 2),
        "peak_rss_bytes": peak_rss(),
    }
    return BuildResult(metadata=metadata, warnings=log.warnings())


def main(job_file: str) -> int:
    """Build what `job_file` describes; the last line on standard output is the result."""
    cancelled = threading.Event()
    threading.Thread(target=_listen, args=(cancelled,), daemon=True).start()
    path = Path(job_file).absolute()
    job = from_json(BuildJob, json.loads(path.read_text(encoding="utf-8")))
    job = replace(job, graph=str(path.parent / job.graph), plan=str(path.parent / job.plan))
    try:
        trt = SDKS[job.target].load()
    except ImportError as error:
        result = BuildResult(failure=_broken_library(job, error))
    else:
        log = MessageLog()
        log.logger = make_logger(trt, log)
        result = build(job, trt, log, make_monitor(trt, _tell, cancelled.is_set))
    _say({"result": to_json(result)})
    return 0 if result.failure is None else 1


def _tell(phase: str, done: int, of: int) -> None:
    _say({"phase": phase, "done": done, "of": of})


def _structure(job: BuildJob, log: MessageLog, version: str) -> dict[str, Any]:
    """Read the engine's structure from the log, or say that the log of this library is not known."""
    if job.target != RTX.name:
        return {"structure": f"not read: the log of {SDKS[job.target].product} is not known"}
    try:
        return describe_structure(log.details, version, [profile.name for profile in job.profiles])
    except EngineError as error:
        return {"structure": f"not read: {error}"}


def _unknown_weights(names: list[str]) -> Failure:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Failure(
        message=f"the parser knows no weights called {shown}", hint="build without --refit, and report the model"
    )


def _broken_library(job: BuildJob, error: ImportError) -> Failure:
    return Failure(
        message=f"its Python package is installed but cannot be loaded: {error}",
        hint=f"install it again with: {install_command(job.target)} --force-reinstall",
    )


def _say(message: Mapping[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(message) + "\n")  # type: ignore[union-attr]  # this process always has one
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _listen(cancelled: threading.Event) -> None:
    """Cancel on a line on standard input; end this process when the input ends, since the parent is gone."""
    if sys.stdin.readline():
        cancelled.set()
        sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
