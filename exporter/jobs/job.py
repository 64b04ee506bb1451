"""What passes between an export and its workers: a job one way, an outcome the other."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffoundry.exporter.calibrate.calibrate import QuantizationRequest, calibrate
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import DimSpec, EngineSpec, Variant
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.targets.base import PrecisionFormat

__all__ = [
    "CalibrationJob",
    "EngineJob",
    "Job",
    "Outcome",
    "PortableJob",
    "Result",
    "forms_of",
    "outcome_of",
    "perform",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PortableJob:
    """Trace one component and write its portable graph.

    Attributes:
        checkpoint: What `Checkpoint.describe` gave, to open it again.
        component: Name of the component.
        opset: Of the graph.
        dims: As in the recipe.
        folder: The bundle's folder; the component's own folder in it exists and is empty.
    """

    checkpoint: Mapping[str, Any]
    component: str
    opset: int
    dims: Mapping[str, DimSpec]
    folder: str

    @property
    def label(self) -> str:
        """What it does, for progress."""
        return self.component


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineJob:
    """Lower one component, whose portable graph is written, for one target in one precision.

    Attributes:
        component: Name of the component.
        build: Target, precision and the target's options.
        first: As in `targets.base.Lowering`.
        dims: As in the recipe.
        buckets: As in the recipe.
        quantization: What calibration chose for this precision, or None.
        folder: The bundle's folder.
    """

    component: str
    build: Variant
    first: bool
    dims: Mapping[str, DimSpec]
    buckets: tuple[tuple[int, int], ...]
    quantization: QuantizationChoice | None
    folder: str

    @property
    def label(self) -> str:
        """What it does, for progress."""
        return f"{self.component}, {self.build.target} {self.build.precision}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationJob:
    """Choose what is quantized, from the portable graphs of a bundle.

    Attributes:
        request: Budget and prompts.
        builds: Those whose precisions are to be chosen for.
        folder: The bundle's folder, complete but for engines and manifest.
    """

    request: QuantizationRequest
    builds: tuple[Variant, ...]
    folder: str

    @property
    def component(self) -> str:
        """It concerns all of them."""
        return "calibration"

    @property
    def label(self) -> str:
        """What it does, for progress."""
        return f"calibration, {', '.join(dict.fromkeys(build.precision for build in self.builds))}"


Job = PortableJob | CalibrationJob | EngineJob

Result = tuple[str, ...] | EngineSpec | dict[str, QuantizationChoice]
"""What a job gives: the files of a portable graph, an engine, or precision to choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a worker says at its end.

    Attributes:
        graph: Of a portable job: the files of the graph, relative to the bundle.
        engine: Of an engine job: its entry of the manifest.
        choices: Of a calibration job: precision to what was chosen.
        seconds: Phase ("load", "trace", "passes", "save", "calibrate", "convert", "lower") to its seconds.
        peak_rss: Largest resident memory of the process in bytes.
        error: One sentence, or None.
        details: The traceback of an error that is not the user's.
    """

    graph: tuple[str, ...] = ()
    engine: EngineSpec | None = None
    choices: Mapping[str, QuantizationChoice] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_rss: int = 0
    error: str | None = None
    details: str | None = None


def forms_of(builds: Iterable[Variant]) -> dict[str, list[PrecisionFormat]]:
    """Precision to the different graph forms that the targets of these builds want for it.

    Raises:
        InputError: A target does not do a precision.
    """
    forms: dict[str, list[PrecisionFormat]] = {}
    for build in builds:
        form = find_plugin(build.target).make_target(build.options).form(build.precision)
        if form not in forms.setdefault(build.precision, []):
            forms[build.precision].append(form)
    return forms


def outcome_of(result: Result, **facts: Any) -> "Outcome":
    """What a job gave, as its outcome.

    Args:
        result: From `perform`.
        facts: Other fields of the outcome.
    """
    if isinstance(result, EngineSpec):
        return Outcome(engine=result, **facts)
    if isinstance(result, dict):
        return Outcome(choices=result, **facts)
    return Outcome(graph=result, **facts)


def perform(
    job: Job,
    phase: Callable[[str], AbstractContextManager[None]],
    tell: Callable[[str], None] = lambda _words: None,
) -> Result:
    """Do a job in this process; only what it needs is imported, PyTorch for portable graphs alone.

    Args:
        job: What to do.
        phase: Wraps each phase, for progress and seconds.
        tell: Told in words how far a long phase is.

    Raises:
        CheckpointError: Weights are missing or do not fit.
        EngineError: The target does not take this graph; the message lists the reasons.
    """
    if isinstance(job, PortableJob):
        from diffoundry.exporter.steps.portable_graph import write_portable

        return write_portable(job, phase)
    if isinstance(job, CalibrationJob):
        with phase("calibrate"):
            return calibrate(Path(job.folder), job.request, forms_of(job.builds), tell)
    from diffoundry.exporter.steps.lower import write_engine

    return write_engine(job, phase, tell)
