"""The result of a benchmark as frozen dataclasses; docs/how-to/benchmark.md describes `to_json(report)`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bench.candidate import Generation, Load
from diffoundry.runtime.bench.machine import Machine
from diffoundry.runtime.bench.spread import Ratio, Spread, ratio_of, spread_of
from diffoundry.runtime.images.pixels import describe_image_fault

__all__ = [
    "SCHEMA_VERSION",
    "BenchReport",
    "CandidateReport",
    "ComponentTime",
    "ImageDistance",
    "Measured",
    "Relative",
    "StepTime",
    "Work",
    "distance_of",
    "relative_of",
    "summarize",
]

FloatArray = npt.NDArray[np.float32]

# One line a version, newest first.
#   2: peak memory of components.
#   1: first form.
SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The work that every candidate did.

    Attributes:
        prompt: The prompt.
        negative_prompt: The negative prompt, or None.
        steps: Value of num_inference_steps.
        guidance_scale: At 1 or less the images ran without guidance.
        scheduler: Class name.
        seed: Seed of torch's CPU generator.
        height: Pixels.
        width: Pixels.
        warmups: Images generated and dropped after the first.
        repeats: Images measured.
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
    """One step of the denoising loop, over all steps of all measured images. All times in seconds.

    Attributes:
        per_image: Steps of one image; some schedulers make more than num_inference_steps.
        seconds: The whole step.
        inside: Inside the engines, checks of their inputs included.
        outside: The rest: scheduler, guidance, copies. In every single step inside + outside = seconds.
        outside_share: Median of outside / seconds.
    """

    per_image: int
    seconds: Spread
    inside: Spread
    outside: Spread
    outside_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentTime:
    """The calls of one component.

    Attributes:
        per_image: Calls for one image.
        seconds: One call.
        peak_memory: Bytes by which the process grew at most while the component opened and made its calls for the
            first image; None where it is not measured.
    """

    per_image: int
    seconds: Spread
    peak_memory: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDistance:
    """Distance of an image from the reference's, pixels in 0..1 as floats, before they are rounded to 8 bits.

    Attributes:
        psnr: -20 log10 of the root mean squared difference, in dB; None when both are equal, or when the image
            holds NaN.
        max_abs: Largest difference; None when the image holds NaN.
    """

    psnr: float | None
    max_abs: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Relative:
    """Time as a multiple of ours.

    Attributes:
        image: A whole image.
        step: One step of the denoising loop.
    """

    image: Ratio
    step: Ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Measurements of one candidate. All times in seconds.

    Attributes:
        load: Time until the first image can begin.
        first_image: The first, cold image.
        image: A warm image, from the call to the pixels.
        image_outside: The part of it outside the engines.
        images_per_minute: 60 over the median of `image`.
        step: One step.
        components: Component to its calls.
        peak_rss: Peak resident memory of the process in bytes, or None where the system does not report it.
        image_fault: Obvious fault of its image (NaN, one colour), or None.
        distance: Distance from the reference's image; None without a reference.
        relative: Ratio to ours; None for ours.
    """

    load: Load
    first_image: float
    image: Spread
    image_outside: Spread
    images_per_minute: float
    step: StepTime
    components: Mapping[str, ComponentTime]
    peak_rss: int | None
    image_fault: str | None
    distance: ImageDistance | None
    relative: Relative | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateReport:
    """One candidate: its description, and its figures or the reason why there are none.

    Attributes:
        name: Name in tables.
        reference: True if distances are measured from its image.
        facts: Library, precision, threads and the like.
        notes: Remarks needed to read its figures.
        failure: Reason why it could not be measured, or None.
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
        created: Time in UTC, ISO 8601.
        bundle: Name of the bundle's folder.
        model: The checkpoint as the recipe names it, or None for a folder without a manifest.
        machine: Machine that ran the benchmark.
        waiting: Share of their time that threads of our process waited for a processor while our measured images were
            generated. It is near 0 on an idle machine, and None where the system does not report it. A larger share
            makes times too high and ratios unsafe.
        work: Work that every candidate did.
        candidates: Ours first.
    """

    schema_version: int
    diffoundry: str
    created: str
    bundle: str
    model: str | None
    machine: Machine
    waiting: float | None
    work: Work
    candidates: tuple[CandidateReport, ...]


def summarize(
    generations: Sequence[Generation],
    *,
    load: Load,
    first: Generation,
    peak_rss: int | None,
    distance: ImageDistance | None,
    relative: Relative | None,
) -> Measured:
    """Summarize one candidate's warm images, of which there is at least one."""
    steps = [seconds for generation in generations for seconds in generation.steps]
    inside = [seconds for generation in generations for seconds in generation.inside]
    outside = [whole - part for whole, part in zip(steps, inside, strict=True)]
    image = spread_of([generation.seconds for generation in generations])
    last = generations[-1]
    return Measured(
        load=load,
        first_image=first.seconds,
        image=image,
        image_outside=spread_of(
            [generation.seconds - sum(map(sum, generation.calls.values())) for generation in generations]
        ),
        images_per_minute=60 * len(last.image) / image.median,
        step=StepTime(
            per_image=len(last.steps),
            seconds=spread_of(steps),
            inside=spread_of(inside),
            outside=spread_of(outside),
            outside_share=float(np.median(np.divide(outside, steps))),
        ),
        components={
            name: ComponentTime(
                per_image=len(calls),
                seconds=spread_of([seconds for generation in generations for seconds in generation.calls[name]]),
                peak_memory=first.memory.get(name),
            )
            for name, calls in last.calls.items()
        },
        peak_rss=peak_rss,
        image_fault=describe_image_fault(last.image[0]),
        distance=distance,
        relative=relative,
    )


def distance_of(image: FloatArray, reference: FloatArray) -> ImageDistance:
    """Compare two images of one shape, floats in 0..1."""
    error = image.astype(np.float64) - reference
    rms, max_abs = float(np.sqrt(np.mean(np.square(error)))), float(np.abs(error).max())
    if not np.isfinite(rms):
        return ImageDistance(psnr=None, max_abs=None)
    return ImageDistance(psnr=-20 * float(np.log10(rms)) if rms else None, max_abs=max_abs)


def relative_of(theirs: Sequence[Generation], ours: Sequence[Generation]) -> Relative:
    """Time of another candidate as a multiple of ours. Generations of one index were made in the same round."""
    return Relative(
        image=ratio_of([generation.seconds for generation in theirs], [generation.seconds for generation in ours]),
        step=ratio_of(_step_medians(theirs), _step_medians(ours)),
    )


def _step_medians(generations: Sequence[Generation]) -> list[float]:
    return [float(np.median(generation.steps)) for generation in generations]
