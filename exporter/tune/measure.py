"""Measures approximations: the distance of their images from those of the exact loop, calls and time, in one run."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.exporter.tune.approximation import Approximation
from diffoundry.exporter.verify.checks.metrics import psnr
from diffoundry.exporter.verify.checks.nearest_image import Gallery
from diffoundry.exporter.verify.checks.ssim import ssim
from diffoundry.exporter.verify.request import Settings
from diffoundry.exporter.verify.run_result import is_image, result_of
from diffoundry.runtime.engines.body_cache import watch_bodies
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = [
    "ApproximationReport",
    "Distance",
    "Exact",
    "Sample",
    "compare",
    "generate_exact",
    "measure_distance",
    "sample",
    "summarize",
]

FloatArray = NDArray[np.float32]

_MOST_DB = 150.0
"""Distance of equal images, so that means over images stay finite. fp32 of values in 0..1 ends at about 138 dB."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One image of one call.

    Attributes:
        prompt: The prompt.
        seed: The seed.
        image: float32 (height, width, 3) in 0..1.
        rows: Rows that the denoiser was called with, over all steps. A row of a call that left out the inner part
            counts for its share of the time of a whole call.
        seconds: Of the whole call.
    """

    prompt: str
    seed: int
    image: FloatArray = field(repr=False)
    rows: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """One image of an approximation beside that of the exact loop.

    Attributes:
        psnr: In dB, peak 1; equal images count as 150 dB.
        ssim: Structural similarity.
        same_object: True if both show the same, by the nearest image of the gallery; None without one.
        rows: As `Sample.rows`.
        seconds: As `Sample.seconds`.
    """

    psnr: float
    ssim: float
    same_object: bool | None
    rows: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ApproximationReport:
    """Distances from the exact loop and the price of both.

    Attributes:
        text: The approximation.
        images: Number of images.
        psnr: Mean of the images' PSNR in dB, peak 1; equal images count as 150 dB.
        worst_psnr: That of the worst image.
        ssim: Mean structural similarity.
        same_object: Images that show what the exact one shows, by the nearest image of the gallery; None without one.
        rows: Rows of the denoiser for an image, on average.
        exact_rows: Those of the exact loop.
        seconds: Median time of an image.
        exact_seconds: That of the exact loop, measured in turns.
    """

    text: str
    images: int
    psnr: float
    worst_psnr: float
    ssim: float
    same_object: int | None
    rows: float
    exact_rows: float
    seconds: float
    exact_seconds: float

    @property
    def fewer_rows(self) -> float:
        """Rows of the exact loop over those of the approximation."""
        return self.exact_rows / self.rows

    @property
    def times_as_fast(self) -> float:
        """Seconds of the exact loop over those of the approximation."""
        return self.exact_seconds / self.seconds


@dataclass(slots=True)
class _Calls:
    """The calls of the denoiser of one image."""

    whole: list[tuple[int, float]] = field(default_factory=list)
    partial: list[tuple[int, float]] = field(default_factory=list)

    def add(self, rows: int, seconds: float, *, whole: bool) -> None:
        (self.whole if whole else self.partial).append((rows, seconds))

    @property
    def rows(self) -> float:
        """As `Sample.rows`."""
        if not self.partial:
            return sum(rows for rows, _ in self.whole)
        times = [median(seconds / rows for rows, seconds in calls) for calls in (self.partial, self.whole)]
        share = min(times[0] / times[1], 1.0)
        return sum(rows for rows, _ in self.whole) + share * sum(rows for rows, _ in self.partial)


def sample(
    pipeline: PipelineBase, settings: Settings, approximation: Approximation | None, prompt: str, seed: int
) -> Sample:
    """Generate one image, counting the rows of the denoiser.

    Args:
        pipeline: The bundle's pipeline.
        settings: Steps, guidance and size of the exact loop.
        approximation: Changes of the call; None is the exact loop.
        prompt: The prompt.
        seed: Seed of torch's CPU generator.

    Raises:
        InputError: The pipeline does not take the approximation, or makes no images.
    """
    calls, component = _Calls(), pipeline.denoiser.component

    def note(name: str, feeds: Mapping[str, Any], _outputs: Mapping[str, Any], seconds: float) -> None:
        if name == component:
            calls.add(
                max(len(array) for array in feeds.values() if array.ndim), seconds, whole=not bodies or bodies[-1]
            )

    changes = {} if approximation is None else approximation.arguments()
    missing = sorted(changes.keys() - pipeline.argument_names)
    if missing:
        raise InputError(
            f"{missing[0]}: {pipeline.session.bundle.pipeline_class} has no such argument; leave it out of the "
            f"approximation"
        )
    arguments = {"output_type": "np", **settings.image_arguments(), **changes}
    pipeline.session.on_call = note
    started = time.perf_counter()
    try:
        with watch_bodies() as bodies:
            run = pipeline.start(prompt if pipeline.text_encoders else None, seed=seed, **arguments)
            made = result_of(run.finish())
    finally:
        pipeline.session.on_call = None
    if not is_image(made):
        raise InputError(
            f"bundle {pipeline.session.bundle.root}: got one that makes no images, expected images to compare"
        )
    return Sample(prompt=prompt, seed=seed, image=made, rows=calls.rows, seconds=time.perf_counter() - started)


Exact = Sequence[Sample]
"""The images of the exact loop."""


def generate_exact(
    pipeline: PipelineBase, settings: Settings, on_image: Callable[[int, int], None] | None = None
) -> list[Sample]:
    """Generate every prompt of the settings with every seed; `on_image` gets (images done, images in all)."""
    wanted = [(prompt, seed) for prompt in settings.prompts for seed in settings.seeds]
    made = []
    for index, (prompt, seed) in enumerate(wanted):
        made.append(sample(pipeline, settings, None, prompt, seed))
        if on_image is not None:
            on_image(index + 1, len(wanted))
    return made


def compare(
    pipeline: PipelineBase,
    settings: Settings,
    approximation: Approximation,
    exact: Exact,
    gallery: Gallery | None = None,
) -> ApproximationReport:
    """Generate the images of `exact` with an approximation, and compare.

    An exact image is generated before each one, so that both times are of the same minutes.

    Args:
        pipeline: The bundle's pipeline.
        settings: Those of `exact`.
        approximation: Changes of the call.
        exact: The images of the exact loop.
        gallery: Names what an image shows.

    Raises:
        InputError: The pipeline does not take the approximation.
    """
    again, distances = [], []
    for one in exact:
        again.append(sample(pipeline, settings, None, one.prompt, one.seed).seconds)
        distances.append(measure_distance(pipeline, settings, approximation, one, gallery))
    return summarize(approximation, distances, exact, again)


def measure_distance(
    pipeline: PipelineBase,
    settings: Settings,
    approximation: Approximation,
    exact: Sample,
    gallery: Gallery | None = None,
) -> Distance:
    """Generate the image of `exact` with an approximation, and compare; arguments as `compare`.

    Raises:
        InputError: The pipeline does not take the approximation.
    """
    made = sample(pipeline, settings, approximation, exact.prompt, exact.seed)
    return Distance(
        psnr=min(psnr(made.image, exact.image, 1.0), _MOST_DB),
        ssim=ssim(made.image, exact.image),
        same_object=None if gallery is None else gallery.name(made.image) == gallery.name(exact.image),
        rows=made.rows,
        seconds=made.seconds,
    )


def summarize(
    approximation: Approximation, distances: Sequence[Distance], exact: Exact, again: Sequence[float] = ()
) -> ApproximationReport:
    """Return the report of an approximation.

    Args:
        approximation: Changes of the call.
        distances: Of its images.
        exact: The same images of the exact loop.
        again: Seconds of the exact loop, measured in turns; none takes the times of `exact`.
    """
    same = [one.same_object for one in distances if one.same_object is not None]
    return ApproximationReport(
        text=approximation.text,
        images=len(distances),
        psnr=fmean(one.psnr for one in distances),
        worst_psnr=min(one.psnr for one in distances),
        ssim=fmean(one.ssim for one in distances),
        same_object=sum(same) if same else None,
        rows=fmean(one.rows for one in distances),
        exact_rows=fmean(one.rows for one in exact),
        seconds=median(one.seconds for one in distances),
        exact_seconds=median(again or [one.seconds for one in exact]),
    )
