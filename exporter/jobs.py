"""What passes between an export and its workers: a job one way, an outcome the other."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from diffoundry.runtime.quantization import QuantizationChoice
from diffoundry.runtime.specs import BuildSpec, DimSpec, EngineSpec

__all__ = ["EngineJob", "Job", "Outcome", "PortableJob", "perform"]


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
    build: BuildSpec
    first: bool
    dims: Mapping[str, DimSpec]
    buckets: tuple[tuple[int, int], ...]
    quantization: QuantizationChoice | None
    folder: str

    @property
    def label(self) -> str:
        """What it does, for progress."""
        return f"{self.component}, {self.build.target} {self.build.precision}"


Job = PortableJob | EngineJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a worker says at its end.

    Attributes:
        graph: Of a portable job: the files of the graph, relative to the bundle.
        engine: Of an engine job: its entry of the manifest.
        seconds: Phase ("load", "trace", "passes", "save", "convert", "lower") to its seconds.
        peak_rss: Largest resident memory of the process in bytes.
        error: One sentence, or None.
        details: The traceback of an error that is not the user's.
    """

    graph: tuple[str, ...] = ()
    engine: EngineSpec | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_rss: int = 0
    error: str | None = None
    details: str | None = None


def perform(
    job: Job,
    phase: Callable[[str], AbstractContextManager[None]],
    tell: Callable[[str], None] = lambda _words: None,
) -> tuple[str, ...] | EngineSpec:
    """Do a job in this process; only what it needs is imported, PyTorch for portable graphs alone.

    Args:
        job: What to do.
        phase: Wraps each phase, for progress and seconds.
        tell: Told in words how far a long phase is.

    Returns:
        The files of a portable graph, or an engine.

    Raises:
        CheckpointError: Weights are missing or do not fit.
        EngineError: The target does not take this graph; the message lists the reasons.
    """
    if isinstance(job, PortableJob):
        from diffoundry.exporter.portable_export import write_portable

        return write_portable(job, phase)
    from diffoundry.exporter.engine_export import write_engine

    return write_engine(job, phase, tell)
