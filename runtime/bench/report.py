"""The result of a benchmark as frozen values; `to_json` of it is the JSON form that docs/bench.md describes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bench.contender import Load, Painting
from diffoundry.runtime.bench.machine import Machine
from diffoundry.runtime.bench.spread import Ratio, Spread, ratio_of, spread_of
from diffoundry.runtime.image import describe_image_fault

__all__ = [
    "SCHEMA_VERSION",
    "BenchReport",
    "ComponentTime",
    "ContenderReport",
    "Distance",
    "Measured",
    "Relative",
    "StepTime",
    "Work",
    "distance_of",
    "relative_of",
    "summarize",
]

FloatArray = npt.NDArray[np.float32]

# One line a version, newest first: what changed.
#   1: first form.
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What every contender did.

    Attributes:
        prompt: The prompt.
        negative_prompt: The negative prompt, or None.
        steps: Steps asked of the scheduler.
        guidance_scale: 1 or less ran without guidance.
        scheduler: Class name.
        seed: Seed of torch's CPU generator.
        height: Pixels.
        width: Pixels.
        warmups: Pictures painted and dropped after the first.
        repeats: Pictures measured.
    """

    prompt: str
    negative_prompt: str | None
    steps: int
    guidance_scale: float
    scheduler: str
    seed: int
    height: int
    width: int
    warmups: int
    repeats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """One step of the denoising loop, over all steps of all measured pictures. All times in seconds.

    Attributes:
        per_picture: Steps of one picture; some schedulers make more than were asked for.
        seconds: The whole step.
        inside: Inside the engines, checks of their inputs included.
        outside: The rest: scheduler, guidance, copies. In every single step inside + outside = seconds.
        outside_share: Median of outside / seconds.
    """

    per_picture: int
    seconds: Spread
    inside: Spread
    outside: Spread
    outside_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentTime:
    """The calls of one component.

    Attributes:
        per_picture: Calls for one picture.
        seconds: One call.
    """

    per_picture: int
    seconds: Spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """How far a picture is from the reference's, pixels in 0..1 as floats, before they are rounded to 8 bits.

    Attributes:
        psnr: -20 log10 of the root mean squared difference, in dB; None when both are equal, or when the picture
            holds NaN.
        max_abs: Largest difference; None when the picture holds NaN.
    """

    psnr: float | None
    max_abs: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Relative:
    """Times as long as ours.

    Attributes:
        picture: A whole picture.
        step: One step of the denoising loop.
    """

    picture: Ratio
    step: Ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured of one contender. All times in seconds.

    Attributes:
        load: Until the first picture can begin.
        first_picture: The first, cold picture.
        picture: A warm picture, from the call to the pixels.
        picture_outside: The part of it outside the engines.
        pictures_per_minute: 60 over the median of `picture`.
        step: One step.
        components: Component to its calls.
        peak_rss: Largest resident memory of the process in bytes, or None where the system does not tell.
        picture_fault: What is plainly wrong with its picture (NaN, one colour), or None.
        distance: From the reference's picture; None without a reference.
        relative: Against ours; None for ours.
    """

    load: Load
    first_picture: float
    picture: Spread
    picture_outside: Spread
    pictures_per_minute: float
    step: StepTime
    components: Mapping[str, ComponentTime]
    peak_rss: int | None
    picture_fault: str | None
    distance: Distance | None
    relative: Relative | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ContenderReport:
    """One contender: what it is, and its figures or the reason why there are none.

    Attributes:
        name: As in tables.
        reference: Whether distances are measured from its picture.
        facts: Library, precision, threads and the like.
        notes: What a reader of its figures must know.
        failure: Why it could not be measured, or None.
        measured: Its figures, or None after a failure.
    """

    name: str
    reference: bool
    facts: Mapping[str, str]
    notes: tuple[str, ...]
    failure: str | None
    measured: Measured | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """A benchmark.

    Attributes:
        schema_version: Version of this form.
        diffoundry: Version of diffoundry that measured.
        created: When, UTC, ISO 8601.
        bundle: Name of the bundle's folder.
        model: The checkpoint as the recipe names it, or None for a folder without a manifest.
        machine: Where.
        waiting: Share of their time that threads of our process waited for a processor while our measured pictures were
            painted; near 0 when nobody else is at work, None where the system does not tell. Where it is more, figures
            are too high and ratios unsafe.
        work: What everybody did.
        contenders: Ours first.
    """

    schema_version: int
    diffoundry: str
    created: str
    bundle: str
    model: str | None
    machine: Machine
    waiting: float | None
    work: Work
    contenders: tuple[ContenderReport, ...]


def summarize(
    paintings: Sequence[Painting],
    *,
    load: Load,
    first_picture: float,
    peak_rss: int | None,
    distance: Distance | None,
    relative: Relative | None,
) -> Measured:
    """The figures of one contender from its warm pictures, of which there is at least one."""
    steps = [seconds for painting in paintings for seconds in painting.steps]
    inside = [seconds for painting in paintings for seconds in painting.inside]
    outside = [whole - part for whole, part in zip(steps, inside, strict=True)]
    picture = spread_of([painting.seconds for painting in paintings])
    last = paintings[-1]
    return Measured(
        load=load,
        first_picture=first_picture,
        picture=picture,
        picture_outside=spread_of(
            [painting.seconds - sum(map(sum, painting.calls.values())) for painting in paintings]
        ),
        pictures_per_minute=60 * len(last.picture) / picture.median,
        step=StepTime(
            per_picture=len(last.steps),
            seconds=spread_of(steps),
            inside=spread_of(inside),
            outside=spread_of(outside),
            outside_share=float(np.median(np.divide(outside, steps))),
        ),
        components={
            name: ComponentTime(
                per_picture=len(calls),
                seconds=spread_of([seconds for painting in paintings for seconds in painting.calls[name]]),
            )
            for name, calls in last.calls.items()
        },
        peak_rss=peak_rss,
        picture_fault=describe_image_fault(last.picture[0]),
        distance=distance,
        relative=relative,
    )


def distance_of(picture: FloatArray, reference: FloatArray) -> Distance:
    """Compare two pictures of one shape, floats in 0..1."""
    error = picture.astype(np.float64) - reference
    rms, max_abs = float(np.sqrt(np.mean(np.square(error)))), float(np.abs(error).max())
    if not np.isfinite(rms):
        return Distance(psnr=None, max_abs=None)
    return Distance(psnr=-20 * float(np.log10(rms)) if rms else None, max_abs=max_abs)


def relative_of(theirs: Sequence[Painting], ours: Sequence[Painting]) -> Relative:
    """How many times as long as ours another takes; paintings of the same index were made in the same round."""
    return Relative(
        picture=ratio_of([painting.seconds for painting in theirs], [painting.seconds for painting in ours]),
        step=ratio_of(_step_medians(theirs), _step_medians(ours)),
    )


def _step_medians(paintings: Sequence[Painting]) -> list[float]:
    return [float(np.median(painting.steps)) for painting in paintings]
