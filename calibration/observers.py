"""Observers: four ways to choose the range of a tensor from its histogram."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.calibration.grids import GRIDS
from diffoundry.calibration.histogram import Histogram

__all__ = ["OBSERVERS", "PERCENTILE", "Limits", "Observer", "cut"]

FloatArray = NDArray[np.floating[Any]]

Limits = tuple[float, float]
"""Smallest and largest number of a range."""

Observer = Callable[[Histogram, Limits, str], Limits]
"""(histogram, exact extremes, one of `GRIDS`) -> the limits to quantize with. Never wider than the extremes."""

PERCENTILE = 99.999
"""Percent of all values kept by the percentile observer on each side."""

_WITHIN = np.array([-0.375, -0.125, 0.125, 0.375])
"""Sample positions in a bin, in widths from its middle."""

_PARTS = tuple(1 - 0.025 * i for i in range(29))
"""Fractions of each side that the searching observers try, from all of it down to 0.3."""


def cut(observer: str, histogram: Histogram, extremes: Limits, kind: str) -> Limits:
    """Choose the limits by one of `OBSERVERS`."""
    return OBSERVERS[observer](histogram, extremes, kind)


def _minmax(_histogram: Histogram, extremes: Limits, _kind: str) -> Limits:
    """Keep everything: nothing is clipped, and one outlier makes the grid coarse for all."""
    return extremes


def _percentile(histogram: Histogram, extremes: Limits, _kind: str) -> Limits:
    """Keep all but one value in a hundred thousand on each side, interpolated within a bin."""
    below = np.concatenate([[0], np.cumsum(histogram.counts)]) / max(int(histogram.counts.sum()), 1)
    tail = 1 - PERCENTILE / 100
    low, high = np.interp([tail, 1 - tail], below, histogram.edges)
    inside = np.clip([low, high], *extremes)
    return float(inside[0]), float(inside[1])


def _mse(histogram: Histogram, extremes: Limits, kind: str) -> Limits:
    """Choose the limits whose grid has the least mean squared error, clipping errors included.

    A step of the grid may be as narrow as a few bins, so each bin counts as several values spread over it.
    """
    centers, counts = _filled(histogram)
    values = np.add.outer(centers, _WITHIN * histogram.width).ravel()
    counts = np.repeat(counts / len(_WITHIN), len(_WITHIN))

    def error(limits: Limits) -> float:
        return float(counts @ np.square(GRIDS[kind](values, *limits) - values))

    return min(_candidates(extremes, kind), key=error)


def _entropy(histogram: Histogram, extremes: Limits, kind: str) -> Limits:
    """Choose the limits whose quantized distribution is nearest to that of the values, by Kullback-Leibler divergence.

    Migacz 2017, "8-bit inference with TensorRT": P is the distribution, with the values outside added to the outermost
    bins inside. Q spreads the count of each grid value evenly over its non-empty bins.
    """
    values, counts = _filled(histogram)

    def divergence(limits: Limits) -> float:
        first, last = np.searchsorted(values, limits[0], "left"), np.searchsorted(values, limits[1], "right")
        if first == last:
            return float("inf")
        within = counts[first:last]
        p = within.copy()
        p[0] += counts[:first].sum()
        p[-1] += counts[last:].sum()
        rounded = GRIDS[kind](values[first:last], *limits)  # ascending, as the values are
        level = np.concatenate(([0], np.cumsum(rounded[1:] != rounded[:-1])))
        q = (np.bincount(level, weights=within) / np.bincount(level))[level]
        p, q = p / p.sum(), q / q.sum()
        return float(p @ np.log(p / q))

    return min(_candidates(extremes, kind), key=divergence)


OBSERVERS: Mapping[str, Observer] = MappingProxyType(
    {"minmax": _minmax, "percentile": _percentile, "mse": _mse, "entropy": _entropy}
)


def _filled(histogram: Histogram) -> tuple[FloatArray, FloatArray]:
    """Middles and counts of the non-empty bins; one bin of zeros when all are empty."""
    filled = np.flatnonzero(histogram.counts)
    if not filled.size:
        return np.zeros(1), np.ones(1)
    return histogram.centers[filled], histogram.counts[filled].astype(np.float64)


def _candidates(extremes: Limits, kind: str) -> Iterator[Limits]:
    """Yield limits, widest first, so that they win a tie; asymmetric ones are cut on both sides alike, or on one."""
    low, high = extremes
    if kind == "uint8":
        yield from ((low * part, high * part) for part in _PARTS)
        yield from ((low, high * part) for part in _PARTS[1:])
        yield from ((low * part, high) for part in _PARTS[1:])
        return
    largest = max(-low, high)
    yield from ((max(low, -largest * part), min(high, largest * part)) for part in _PARTS)
