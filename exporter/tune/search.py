"""Searches the approximation that calls the denoiser least while its images stay within a budget of decibels."""

from collections.abc import Callable, Iterator, Sequence

from diffoundry.exporter.tune.approximation import Approximation
from diffoundry.exporter.tune.measure import ApproximationReport, Exact, measure_distance, summarize
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.errors import DiffoundryError, InputError
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["candidates", "search"]

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


def search(
    pipeline: PipelineBase,
    settings: Settings,
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
        pipeline: The bundle's pipeline.
        settings: Of the exact loop.
        exact: Its images.
        min_psnr: Least mean PSNR in dB.
        tried: The approximations.
        on_try: Called with (number tried, number in all, text) before each.

    Raises:
        InputError: The pipeline takes none of them.
    """
    hopeful, refusals = [], []
    for index, one in enumerate(tried):
        if on_try is not None:
            on_try(index, len(tried), one.text)
        try:
            first = measure_distance(pipeline, settings, one, exact[0])
        except DiffoundryError as error:  # another scheduler may not fit, a system may have no guidance of its own
            refusals.append(str(error))
            continue
        if first.psnr >= min_psnr - _LOST and first.rows < exact[0].rows:
            hopeful.append((first.rows, -first.psnr, one, first))
    if len(refusals) == len(tried):
        raise InputError(f"tune: this bundle takes none of {len(tried)} approximations; the last: {refusals[-1]}")
    found = []
    for _, _, one, first in sorted(hopeful, key=lambda entry: entry[:2]):
        distances = [first, *(measure_distance(pipeline, settings, one, other) for other in exact[1:])]
        report = summarize(one, distances, exact)
        if report.psnr >= min_psnr:
            found.append((one, report))
            if len(found) == 3:
                break
    return found
