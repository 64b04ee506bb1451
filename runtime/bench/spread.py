"""Medians with their spread: every number is reported with its variation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Ratio", "Spread", "ratio_of", "spread_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The distribution of a measured quantity.

    Attributes:
        count: Number of measurements.
        median: Their median.
        p10: 10th percentile, interpolated linearly.
        p90: 90th percentile.
        min: Smallest.
        max: Largest.
        mean: Mean; unlike medians, means of parts add up to the mean of the whole.
    """

    count: int
    median: float
    p10: float
    p90: float
    min: float
    max: float
    mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Time of another candidate as a multiple of ours; above 1 ours is faster.

    Attributes:
        of_medians: Its median over our median.
        p10: 10th percentile of the ratios within each round, in which both ran one after the other.
        p90: 90th percentile of the same.
    """

    of_medians: float
    p10: float
    p90: float


def spread_of(values: Sequence[float]) -> Spread:
    """Compute median and spread of at least one measurement."""
    array = np.asarray(values, dtype=np.float64)
    p10, median, p90 = np.percentile(array, [10, 50, 90])
    return Spread(
        count=array.size,
        median=float(median),
        p10=float(p10),
        p90=float(p90),
        min=float(array.min()),
        max=float(array.max()),
        mean=float(array.mean()),
    )


def ratio_of(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Compute the ratio of medians, and the spread of the ratios round by round.

    Args:
        theirs: One duration a round.
        ours: One duration a round; only as many are paired as there are of both.
    """
    rounds = spread_of([their / our for their, our in zip(theirs, ours, strict=False)])
    return Ratio(of_medians=float(np.median(theirs) / np.median(ours)), p10=rounds.p10, p90=rounds.p90)
