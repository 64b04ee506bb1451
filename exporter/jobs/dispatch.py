"""Table from a kind of job to the function that does it, and `run_job`, which calls it in this process."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields

from diffoundry.exporter.jobs.job import CalibrationJob, EngineJob, Job, JobResult, PortableJob
from diffoundry.runtime.engines.plugins import resolve

__all__ = ["Phase", "run_job"]

Phase = Callable[[str], AbstractContextManager[None]]
"""Wraps each phase of a job, for progress and seconds."""

_STEPS: dict[type[Job], tuple[str, str]] = {
    PortableJob: ("graph", "diffoundry.exporter.steps.write_portable:write_portable"),
    CalibrationJob: ("choices", "diffoundry.exporter.steps.choose_quantization:choose_quantization"),
    EngineJob: ("engine", "diffoundry.exporter.steps.lower:write_engine"),
}
"""Kind of job to (field of `JobResult`, function). The function takes the job's fields, `phase` and `progress`."""


def run_job(job: Job, phase: Phase, progress: Callable[[str], None] = lambda _text: None) -> JobResult:
    """Do a job in this process. Only the modules that it needs are imported; PyTorch for portable graphs alone.

    Args:
        job: The job.
        phase: Wraps each phase.
        progress: Called with a text while a long phase runs.

    Raises:
        CheckpointError: Weights are missing or do not fit.
        EngineError: The target does not support this graph; the message lists the reasons.
    """
    name, reference = _STEPS[type(job)]
    arguments = {field.name: getattr(job, field.name) for field in fields(job)}
    return JobResult(**{name: resolve(reference)(**arguments, phase=phase, progress=progress)})
