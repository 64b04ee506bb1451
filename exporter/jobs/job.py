"""Jobs of an export as plain data, and the result of a job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import DimSpec, EngineSpec, Variant

__all__ = ["CUT_WEIGHTS", "CalibrationJob", "EngineJob", "Job", "JobResult", "PortableJob"]

CUT_WEIGHTS = "cut_weights"
"""Key in an engine's metadata: the weights that its type cannot hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PortableJob:
    """Trace one component and write its portable graph.

    Attributes:
        checkpoint: Result of `Checkpoint.describe`, to open the checkpoint again.
        component: Name of the component.
        opset: Version of ONNX's operators.
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
        """Name of the job in progress and errors."""
        return self.component


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineJob:
    """Lower the portable graph of one component for one variant.

    Attributes:
        component: Name of the component.
        role: Its role, of `runtime.models.roles`.
        variant: Target, precision and the target's options.
        first: As in `targets.base.Lowering`.
        dims: As in the recipe.
        buckets: As in the recipe.
        quantization: The choice of calibration for this precision, or None.
        folder: The bundle's folder.
        partition: As in the recipe.
        split: As in the recipe.
    """

    component: str
    role: str
    variant: Variant
    first: bool
    dims: Mapping[str, DimSpec]
    buckets: tuple[tuple[int, int], ...]
    quantization: QuantizationChoice | None
    folder: str
    partition: bool = False
    split: bool = False

    @property
    def label(self) -> str:
        """Name of the job in progress and errors."""
        return f"{self.component}, {self.variant.target} {self.variant.precision}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationJob:
    """Choose which operators are quantized, from the portable graphs of a bundle.

    Attributes:
        request: Budget and prompts.
        variants: Those whose precisions need a choice.
        folder: The bundle's folder, complete except for engines and manifest.
    """

    request: QuantizationRequest
    variants: tuple[Variant, ...]
    folder: str

    @property
    def component(self) -> str:
        """Calibration concerns all components, so it has a name of its own."""
        return "calibration"

    @property
    def label(self) -> str:
        """Name of the job in progress and errors."""
        work = "calibration" if self.request.calibrate else "quantization"
        return f"{work}, {', '.join(dict.fromkeys(variant.precision for variant in self.variants))}"


Job = PortableJob | CalibrationJob | EngineJob


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """Result of a job, or its error.

    Attributes:
        graph: Of a portable job: the files of the graph, relative to the bundle.
        engine: Of an engine job: its entry of the manifest.
        choices: Of a calibration job: precision to its choice.
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

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the job wrote, relative to the bundle."""
        return (*self.graph, *(() if self.engine is None else self.engine.all_files))

    def fits(self, job: Job) -> bool:
        """Return True if this can be the result of a job: it has what such a job makes."""
        if isinstance(job, PortableJob):
            return bool(self.graph)
        if isinstance(job, EngineJob):
            return self.engine is not None and self.engine.target == job.variant.target
        return {variant.precision for variant in job.variants} <= self.choices.keys()
