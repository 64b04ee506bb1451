"""Histograms of a tensor's values, in bounded memory for values of any size."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Histogram"]

Array = NDArray[Any]

BINS = 2048
"""Bins of every histogram, half of them below zero. The largest magnitude lies in the outer half of its side."""

_SMALLEST = -120
"""Exponent of the narrowest bins; 2 to this power is still a float32 that can be divided by."""


class Histogram:
    """Bin i counts the values v with floor(v / 2^exponent) = i - BINS / 2.

    The width of the bins is a power of two. A value that does not fit doubles it as often as needed by adding pairs of
    bins. Since floor(floor(v / w) / 2) = floor(v / 2w), the counts are those of the final width over all values, in
    whatever order they come. So histograms can be built in pieces, saved, resumed and added, and stay exact.

    Attributes:
        exponent: Exponent of the bins' width.
        counts: int64, (BINS,).
    """

    def __init__(self, exponent: int = _SMALLEST, counts: NDArray[np.int64] | None = None) -> None:
        self.exponent = exponent
        self.counts = np.zeros(BINS, np.int64) if counts is None else counts

    def add(self, values: Array) -> None:
        """Count finite float32 values of any shape."""
        if not values.size:
            return
        self.widen(_exponent_for(float(np.abs(values).max())))
        bins = np.floor(values * np.float32(2.0**-self.exponent)).astype(np.int64).ravel()
        self.counts += np.bincount(bins + BINS // 2, minlength=BINS)

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram, which stays unchanged."""
        self.widen(other.exponent)
        self.counts += Histogram(other.exponent, other.counts.copy()).widen(self.exponent).counts

    def widen(self, exponent: int) -> "Histogram":
        """Make the bins at least 2^exponent wide, and return the histogram."""
        while self.exponent < exponent:
            if not self.counts.any():
                self.exponent = exponent
                break
            pairs = self.counts.reshape(-1, 2).sum(axis=1)  # BINS / 4 of them on each side of zero
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = pairs
            self.exponent += 1
        return self

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0**self.exponent

    @property
    def edges(self) -> NDArray[np.float64]:
        """Lower edge of every bin, and the upper edge of the last: (BINS + 1,)."""
        return (np.arange(BINS + 1, dtype=np.float64) - BINS // 2) * self.width

    @property
    def centers(self) -> NDArray[np.float64]:
        """Middle of every bin, (BINS,)."""
        return (np.arange(BINS, dtype=np.float64) - BINS // 2 + 0.5) * self.width


def _exponent_for(largest: float) -> int:
    """Exponent of the narrowest bins of which BINS / 2 hold everything from -largest to largest."""
    if largest == 0:
        return _SMALLEST
    _, exponent = math.frexp(largest)  # largest < 2^exponent, and -2^exponent itself has a bin too
    return max(exponent - (BINS // 2).bit_length() + 1, _SMALLEST)
