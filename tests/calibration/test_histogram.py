"""Streaming histograms against NumPy's on all values at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffoundry.calibration.histogram import BINS, Histogram


def brute_force(values: np.ndarray, histogram: Histogram) -> np.ndarray:
    """NumPy's counts of all values in the bins that the histogram ended with."""
    return np.histogram(values.astype(np.float64), bins=histogram.edges)[0]


def pieces(seed: int, count: int = 12) -> list[np.ndarray]:
    """Arrays whose ranges differ by orders of magnitude, the largest neither first nor last."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.integers(-4, 4, count)
    return [(rng.standard_normal(500) * size + rng.standard_normal()).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_numpy_on_all_values(seed):
    histogram = Histogram()
    for piece in pieces(seed):
        histogram.add(piece)
    np.testing.assert_array_equal(histogram.counts, brute_force(np.concatenate(pieces(seed)), histogram))


@pytest.mark.parametrize("seed", range(5))
def test_the_widest_value_lies_in_the_outer_half_so_that_bins_are_not_wasted(seed):
    histogram = Histogram()
    for piece in pieces(seed):
        histogram.add(piece)
    largest = max(np.abs(piece).max() for piece in pieces(seed))
    assert BINS / 4 * histogram.width <= largest <= BINS / 2 * histogram.width


def test_the_order_of_pieces_does_not_matter():
    forward, backward = Histogram(), Histogram()
    for piece in pieces(0):
        forward.add(piece)
    for piece in reversed(pieces(0)):
        backward.add(piece)
    assert forward.exponent == backward.exponent
    np.testing.assert_array_equal(forward.counts, backward.counts)


def test_merged_halves_equal_the_whole_and_stay_unchanged():
    whole, left, right = Histogram(), Histogram(), Histogram()
    for i, piece in enumerate(pieces(1)):
        whole.add(piece)
        (left if i % 2 else right).add(piece)
    before = right.exponent, right.counts.copy()
    left.merge(right)
    assert left.exponent == whole.exponent
    np.testing.assert_array_equal(left.counts, whole.counts)
    assert right.exponent == before[0]
    np.testing.assert_array_equal(right.counts, before[1])


@given(st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=50))
def test_every_float_finds_its_bin(numbers):
    values = np.array(numbers, np.float32)
    values = np.where(np.abs(values) < 1e-15, 0, values)  # a negative number may be so near to 0 that it becomes 0
    histogram = Histogram()
    for value in values:
        histogram.add(value.reshape(1))
    assert histogram.counts.sum() == len(values)
    np.testing.assert_array_equal(histogram.counts, brute_force(values, histogram))


def test_zeros_alone_keep_the_narrowest_bins():
    histogram = Histogram()
    histogram.add(np.zeros(7, np.float32))
    histogram.add(np.empty(0, np.float32))
    assert histogram.counts[BINS // 2] == 7
    histogram.add(np.array([1.0], np.float32))
    np.testing.assert_array_equal(histogram.counts, brute_force(np.array([0] * 7 + [1.0]), histogram))
