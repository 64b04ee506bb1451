"""Searches the approximation that calls the denoiser least while its images stay within a budget of decibels."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from diffoundry.exporter.tune.approximation import Approximation
from diffoundry.exporter.tune.measure import ApproximationReport, Distance, Exact, measure_distance, summarize
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.errors import DiffoundryError, InputError
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["Measure", "MeasureHere", "candidates", "search"]

_FEWER = (1.5, 2.0, 2.5, 3.0, 4.0)
"""Divisors of the number of steps."""

_SCHEDULERS = ("dpmpp_2m", "unipc")
"""Schedulers that need fewer steps than most; those that do not fit the model are left out."""

_TAYLOR = tuple(
    f"taylor:{order}:interval={interval}:final={final}{more}"
    for interval in (2, 3, 4, 5, 6, 8)
    for order, more in ((0, ""), (1, ""), (1, ":guidance-order=0"), (2, ":guidance-order=1"))
    for final in (1, 3)
)

_SPLIT = (
    *(f"deep:{interval}{more}" for interval in (2, 3, 5) for more in ("", ":order=1")),
    *(f"first-block:{threshold}" for threshold in (0.1, 0.2, 0.4)),
)
"""Caches of bundles that were exported with --split; others refuse them at once."""

_CACHES = (*_TAYLOR, *(f"sea:{threshold}" for threshold in (0.3, 0.6, 1.0, 1.5)), "guidance:2", "guidance:3", *_SPLIT)

_INTERVALS = ((0.0, 0.8), (0.1, 0.9), (0.2, 0.8))

_LOST = 10.0
"""An approximation whose first image is so many dB below the budget is not looked at again."""


_KEPT = 3
"""Approximations that are returned at most."""


def candidates(steps: int) -> Iterator[Approximation]:
    """Yield the approximations that are tried for a loop of `steps` steps."""
    for cache in _CACHES:
        yield Approximation(cache=cache)
    for divisor in _FEWER:
        fewer = round(steps / divisor)
        if 0 < fewer < steps:
            yield Approximation(steps=fewer)
            for scheduler in _SCHEDULERS:
                yield Approximation(steps=fewer, scheduler=scheduler)
                yield Approximation(steps=fewer, scheduler=scheduler, cache="taylor:1")
    for interval in _INTERVALS:
        yield Approximation(guidance_interval=interval)
        yield Approximation(guidance_interval=interval, cache="taylor:1:interval=3")


class Measure(Protocol):
    """Measures images of approximations, one after another or many at once.

    Attributes:
        at_once: Approximations that are measured at once.
    """

    at_once: int

    def __call__(self, wanted: Sequence[tuple[Approximation, int]]) -> Iterator[tuple[int, Distance | DiffoundryError]]:
        """Measure approximations on images of the exact loop, given by their indices.

        Yields:
            The index in `wanted`, in any order, and the distance, or the reason why the approximation does not fit.
        """


class MeasureHere:
    """Measures with a pipeline of this process.

    Attributes:
        settings: Of the exact loop.
        exact: Its images.
    """

    at_once = 1

    def __init__(self, pipeline: PipelineBase, settings: Settings, exact: Exact) -> None:
        self.settings, self.exact = settings, exact
        self._pipeline = pipeline

    def one(self, approximation: Approximation, image: int) -> Distance | DiffoundryError:
        """Measure one image."""
        try:
            return measure_distance(self._pipeline, self.settings, approximation, self.exact[image])
        except DiffoundryError as error:  # another scheduler may not fit, a system may have no guidance of its own
            return error

    def __call__(self, wanted: Sequence[tuple[Approximation, int]]) -> Iterator[tuple[int, Distance | DiffoundryError]]:
        """See `Measure`."""
        for index, one in enumerate(wanted):
            yield index, self.one(*one)


def search(
    measure: Measure,
    exact: Exact,
    min_psnr: float,
    tried: Sequence[Approximation],
    on_try: Callable[[int, int, str], None] | None = None,
) -> list[tuple[Approximation, ApproximationReport]]:
    """Return those within the budget, the one with the fewest rows first.

    Each is tried on one image; those that are not lost are tried on the others, the cheapest first, until one is within
    the budget. The order by rows is exact, because a cache of taylor makes the same calls for every image, and nearly
    so for sea. Of two with equal rows the one that is nearer on the first image comes first.

    Args:
        measure: Measures approximations on the images of `exact`.
        exact: The images of the exact loop.
        min_psnr: Least mean PSNR in dB.
        tried: The approximations.
        on_try: Called with (number tried, number in all, text) after each.

    Raises:
        InputError: The pipeline takes none of them.
    """
    firsts: dict[int, Distance | DiffoundryError] = {}
    for index, result in measure([(one, 0) for one in tried]):
        firsts[index] = result
        if on_try is not None:
            on_try(len(firsts), len(tried), tried[index].text)
    hopeful = []
    for index, one in enumerate(tried):
        first = firsts[index]
        if isinstance(first, Distance) and first.psnr >= min_psnr - _LOST and first.rows < exact[0].rows:
            hopeful.append((first.rows, -first.psnr, one, first))
    if all(isinstance(first, DiffoundryError) for first in firsts.values()):
        last = firsts[len(tried) - 1]
        raise InputError(f"tune: this bundle takes none of {len(tried)} approximations; the last: {last}")
    found: list[tuple[Approximation, ApproximationReport]] = []
    hopeful.sort(key=lambda entry: entry[:2])
    for start in range(0, len(hopeful), measure.at_once):
        chosen = [(one, first) for _, _, one, first in hopeful[start : start + measure.at_once]]
        for (one, _), distances in zip(chosen, _measure_all(measure, chosen, exact), strict=True):
            report = summarize(one, distances, exact)
            if report.psnr >= min_psnr and len(found) < _KEPT:
                found.append((one, report))
        if len(found) == _KEPT:
            break
    return found


def _measure_all(
    measure: Measure, chosen: Sequence[tuple[Approximation, Distance]], exact: Exact
) -> list[list[Distance]]:
    """Return the distances of approximations on every image, the first of which was measured before.

    Raises:
        DiffoundryError: An image of one cannot be generated.
    """
    wanted = [(place, image) for place in range(len(chosen)) for image in range(1, len(exact))]
    distances: list[dict[int, Distance]] = [{0: first} for _, first in chosen]
    for index, result in measure([(chosen[place][0], image) for place, image in wanted]):
        if isinstance(result, DiffoundryError):
            raise result
        place, image = wanted[index]
        distances[place][image] = result
    return [[found[image] for image in range(len(exact))] for found in distances]
