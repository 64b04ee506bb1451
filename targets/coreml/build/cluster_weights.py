"""Clusters weights into a small table and indices: k-means in one dimension, on the histogram of the weights."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SMALLEST", "palettize"]

Floats = npt.NDArray[np.float64]
Starts = npt.NDArray[np.int64]

SMALLEST = 2048
"""Elements. Smaller tensors stay as they are: a table would outweigh what it saves. coremltools: weight_threshold."""

_ROUNDS = 300
_EXCHANGES = 40
_WORTHWHILE = 0.9995
"""Rounds of Lloyd's iteration, exchanges of clusters after it, and what an exchange must bring to try another."""


def palettize(array: npt.NDArray[Any], bits: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """The table of 2^bits numbers that is nearest to an array in squares, and the index of each element into it.

    A tensor of weights holds few different numbers: at most 65,536 in float16, however large it is. So its histogram is
    clustered, where a cluster is an interval and its mean a difference of prefix sums, and the work does not
    depend on the size of the tensor. Lloyd's iteration (IEEE Trans. Inf. Theory 28, 129-137, 1982) starts from
    clusters that were split where they left most, and is repeated after exchanging cheap clusters for dear ones.

    Args:
        array: float16 or float32, finite; float32 is clustered by its values rounded to float16.
        bits: 1 to 8.

    Returns:
        The table, ascending, 2^bits numbers of the type of `array`, and the indices, of its shape.
    """
    codes = array.astype(np.float16).view(np.uint16)
    counts = np.bincount(codes.reshape(-1), minlength=1 << 16)
    present = np.flatnonzero(counts)
    order = np.argsort(present.astype(np.uint16).view(np.float16).astype(np.float64), kind="stable")
    present = present[order]
    values = present.astype(np.uint16).view(np.float16).astype(np.float64)
    starts = _cluster(values, counts[present].astype(np.float64), 1 << bits)
    cluster = np.searchsorted(starts, np.arange(len(values)), side="right") - 1
    index_of = np.zeros(1 << 16, dtype=np.uint8)
    index_of[present] = cluster
    indices = index_of[codes]
    return _table(array, indices, 1 << bits), indices


def _table(array: npt.NDArray[Any], indices: npt.NDArray[np.uint8], size: int) -> npt.NDArray[Any]:
    """The mean of the elements of every cluster; those beyond the last cluster repeat it."""
    flat = indices.reshape(-1)
    sums = np.bincount(flat, weights=array.reshape(-1), minlength=size)
    counts = np.bincount(flat, minlength=size)
    used = int(np.flatnonzero(counts)[-1]) + 1
    table = np.empty(size, dtype=array.dtype)
    table[:used] = sums[:used] / counts[:used]
    table[used:] = table[used - 1]
    return table


def _cluster(values: Floats, counts: Floats, size: int) -> Starts:
    """Return the start of each cluster in ascending `values` that occur `counts` times; at most `size`, none empty."""
    if len(values) <= size:
        return np.arange(len(values))
    sums = _Sums(values, counts)
    starts = _settle(sums, _split(sums, np.zeros(1, dtype=np.int64), size), size)
    for _ in range(_EXCHANGES):
        moved = _settle(sums, _exchange(sums, starts, size), size)
        if sums.errors(moved).sum() >= _WORTHWHILE * sums.errors(starts).sum():
            break
        starts = moved
    return starts


class _Sums:
    """Sums over intervals of sorted values, from prefix sums."""

    def __init__(self, values: Floats, counts: Floats) -> None:
        self.values = values
        self._prefix = [np.append(0.0, np.cumsum(counts * values**power)) for power in range(3)]

    def errors(self, starts: Starts, ends: Starts | None = None) -> Floats:
        """The squares around the mean that intervals leave; each ends where the next starts unless `ends` says."""
        number, total, squares = self._between(starts, ends)
        return np.maximum(squares - total**2 / np.maximum(number, 1), 0.0)  # an empty interval leaves nothing

    def means(self, starts: Starts) -> Floats:
        """The mean of each interval."""
        number, total, _ = self._between(starts, None)
        return total / number

    def halves(self, starts: Starts) -> Starts:
        """Return the split of each interval: at its mean, or midway where that separates outliers.

        An interval of one value gives its own start.
        """
        ends = np.append(starts[1:], len(self.values))
        middles = self.means(starts), (self.values[starts] + self.values[ends - 1]) / 2
        cuts = [
            np.clip(np.searchsorted(self.values, middle), np.minimum(starts + 1, ends - 1), ends - 1)
            for middle in middles
        ]
        single = ends - starts == 1
        left = [self.errors(starts, np.where(single, ends, cut)) + self.errors(cut, ends) for cut in cuts]
        return np.where(left[0] <= left[1], *cuts)

    def _between(self, starts: Starts, ends: Starts | None) -> list[Floats]:
        ends = np.append(starts[1:], len(self.values)) if ends is None else ends
        return [prefix[ends] - prefix[starts] for prefix in self._prefix]


def _settle(sums: _Sums, starts: Starts, size: int) -> Starts:
    """Lloyd's iteration: boundaries between means, means of what lies between boundaries."""
    for _ in range(_ROUNDS):
        means = sums.means(starts)
        moved = np.unique(np.append(0, np.searchsorted(sums.values, (means[:-1] + means[1:]) / 2)))
        if np.array_equal(moved, starts):
            break
        starts = _split(sums, moved, size)
    return starts


def _split(sums: _Sums, starts: Starts, size: int) -> Starts:
    """Split the clusters that leave the largest squares, until there are `size`."""
    while len(starts) < size:
        halves = sums.halves(starts)
        errors = np.where(halves > starts, sums.errors(starts), -1.0)
        worst = np.argsort(errors)[-min(size - len(starts), (len(starts) + 1) // 2) :]
        starts = np.unique(np.append(starts, halves[worst]))
    return starts


def _exchange(sums: _Sums, starts: Starts, size: int) -> Starts:
    """Merge neighbours that cost little and split clusters that gain more.

    Lloyd's iteration alone hardly moves clusters from where there are too many to where there are too few.
    """
    errors, halves = sums.errors(starts), sums.halves(starts)
    ends = np.append(starts[1:], len(sums.values))
    gains = np.where(halves > starts, errors - sums.errors(starts, halves) - sums.errors(halves, ends), 0.0)
    costs = sums.errors(starts[:-1], ends[1:]) - errors[:-1] - errors[1:]
    splits, merges = np.argsort(-gains), np.argsort(costs)
    pairs = min(len(merges), max(1, size // 8))
    chosen = int(np.count_nonzero(gains[splits[:pairs]] > costs[merges[:pairs]]))
    kept = np.delete(starts, merges[:chosen] + 1)
    return np.unique(np.append(kept, halves[splits[:chosen]]))
