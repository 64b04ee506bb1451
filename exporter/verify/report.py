"""What `verify` hands back: every check with its number and gate, and the curves they were taken from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffoundry.exporter.verify.metrics import Distance
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.records import to_json

__all__ = [
    "SCHEMA_VERSION",
    "Absence",
    "BuildReport",
    "Check",
    "LoopResult",
    "OutputResult",
    "StepDistance",
    "VerifyReport",
    "at_least",
    "at_most",
    "holds",
    "report_to_json",
]

SCHEMA_VERSION = 2
"""Version of the JSON form of `VerifyReport`; it grows when a field changes its meaning or goes away.

2: one `BuildReport` for each target and precision holds what was of the only one; pictures have SSIM, mean shift and
   what they show.
1: the first.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        part: "bundle", "config", "tokenizer", "engine", "component", "loop",
            "image" or "across".
        subject: What was looked at, such as "unet out_sample" or "red apple, seed 0".
        measure: What was measured of it.
        measured: The number, or words where no number says it.
        gate: What it had to be, in words: "<= 1e-05", "equal".
        limit: The number in `gate`, or None.
        passed: Whether it was.
        detail: Where the number comes from, or "".
    """

    part: str
    subject: str
    measure: str
    measured: float | str
    gate: str
    limit: float | None
    passed: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputResult:
    """One output of one component on one set of inputs, against PyTorch fp32.

    Attributes:
        component: Name of the component.
        output: Name of the output.
        case: Which inputs: "prompts", "t=981" ...
        distance: How far it is.
    """

    component: str
    output: str
    case: str
    distance: Distance


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDistance:
    """How far the latents are from diffusers' after one step.

    Attributes:
        index: 0 for the first step.
        timestep: What the scheduler called it.
        max_abs: Largest absolute difference.
        scale: RMS of diffusers' latents after this step.
        relative_max: max_abs / scale; this is what the gate looks at.
        relative_rms: RMS of the difference / scale.
    """

    index: int
    timestep: float
    max_abs: float
    scale: float
    relative_max: float
    relative_rms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopResult:
    """One picture, painted by the bundle and by diffusers.

    Attributes:
        prompt: The prompt.
        seed: The seed of torch's CPU generator.
        steps: How many steps the bundle's pipeline made.
        reference_steps: How many diffusers made.
        curve: The latents after every step.
        worst: Index into `curve` of the largest relative_max (NaN counts as largest).
        psnr: Of the final picture, values in 0..1, peak 1.
        ssim: Of the final picture, see `ssim`.
        shift: Largest difference of the mean of a colour over the picture, values in 0..1.
        shows: Label of the gallery's picture that the bundle's is nearest to; None without a gallery, or with NaN.
        reference_shows: That of diffusers' picture.
        fault: What is plainly wrong with the bundle's picture, or None.
        reference_fault: What is plainly wrong with diffusers' picture, or None.
    """

    prompt: str
    seed: int
    steps: int
    reference_steps: int
    curve: tuple[StepDistance, ...]
    worst: int
    psnr: float
    ssim: float
    shift: float
    shows: str | None
    reference_shows: str | None
    fault: str | None
    reference_fault: str | None

    @property
    def name(self) -> str:
        """What checks call it."""
        return f"{self.prompt}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """One set of engines of the bundle.

    Attributes:
        name: Target and precision, such as "onnxruntime fp16".
        precision: The coarsest of its engines', whose gates the pictures have to pass.
        engines: Component to "target precision".
        checks: Everything that was looked at.
        outputs: The components' outputs, one entry a set of inputs.
        loops: One entry a picture.
        seconds: How long it took.
        passed: Whether every check passed.
    """

    name: str
    precision: str
    engines: Mapping[str, str]
    checks: tuple[Check, ...]
    outputs: tuple[OutputResult, ...]
    loops: tuple[LoopResult, ...]
    seconds: float
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Absence:
    """Engines of the bundle that were not looked at.

    Attributes:
        name: Target and precision.
        reason: Why they cannot run here.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """The whole answer.

    Attributes:
        schema_version: `SCHEMA_VERSION`.
        diffoundry: Version that verified.
        bundle: Path of the bundle.
        checkpoint: Name of the checkpoint it was compared with.
        settings: What was painted on both sides.
        gallery: What the pictures were named by, in words, or None when nothing was at hand.
        notes: Remarks that change nothing about passing, such as a checkpoint that is not the recipe's.
        checks: What all builds share: files, configs, token ids.
        builds: Every set of engines that can run here.
        absent: Those that cannot.
        seconds: How long it took.
        passed: Whether every check passed, of the builds too.
    """

    schema_version: int
    diffoundry: str
    bundle: str
    checkpoint: str
    settings: Settings
    gallery: str | None
    notes: tuple[str, ...]
    checks: tuple[Check, ...]
    builds: tuple[BuildReport, ...]
    absent: tuple[Absence, ...]
    seconds: float
    passed: bool

    @property
    def all_checks(self) -> tuple[Check, ...]:
        """Those that all builds share, then those of each build."""
        return sum((build.checks for build in self.builds), self.checks)


def at_most(part: str, subject: str, measure: str, value: float, limit: float, detail: str = "") -> Check:
    """A check that a number does not exceed a limit; NaN exceeds every limit."""
    gate, passed = f"<= {limit:g}", value <= limit
    return _numeric(part, subject, measure, value, limit, detail, gate, passed=passed)


def at_least(part: str, subject: str, measure: str, value: float, limit: float, detail: str = "") -> Check:
    """A check that a number reaches a limit; NaN reaches none."""
    gate, passed = f">= {limit:.10g}", value >= limit
    return _numeric(part, subject, measure, value, limit, detail, gate, passed=passed)


def holds(part: str, subject: str, measure: str, fault: str | None, gate: str = "equal") -> Check:
    """A check without a number: passed when there is no fault, and `fault` says what is measured otherwise."""
    return Check(
        part=part,
        subject=subject,
        measure=measure,
        measured=gate if fault is None else fault,
        gate=gate,
        limit=None,
        passed=fault is None,
    )


def report_to_json(report: Any) -> Any:
    """A report as JSON values; "nan", "inf" and "-inf" stand for what JSON has no numbers for."""
    return _spell(to_json(report))


def _numeric(
    part: str, subject: str, measure: str, value: float, limit: float, detail: str, gate: str, *, passed: bool
) -> Check:
    return Check(
        part=part,
        subject=subject,
        measure=measure,
        measured=value,
        gate=gate,
        limit=limit,
        passed=passed,
        detail=detail,
    )


def _spell(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spell(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spell(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
