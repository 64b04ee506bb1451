"""The distances against scikit-style formulas written out, and what NaN, infinity and flat references give."""

import math

import numpy as np
import pytest

from diffoundry.exporter.verify.checks.metrics import measure, psnr


def test_known_numbers():
    reference = np.float32([[3, 0], [0, -1]])
    distance = measure(np.float32([[3, 4], [0, -1]]), reference)
    assert distance.max_abs == 4
    assert distance.peak == 4
    assert distance.relative_max == 1
    assert distance.relative_rms == pytest.approx(4 / math.sqrt(10))
    assert distance.cosine == pytest.approx(10 / math.sqrt(26 * 10))
    assert distance.psnr == pytest.approx(20 * math.log10(4 / 2))


def test_one_element_of_a_million_is_seen_by_the_largest_error():
    reference = np.random.default_rng(0).standard_normal(10**6).astype(np.float32)
    output = reference.copy()
    output[12345] += 0.5
    distance = measure(output, reference)
    assert distance.max_abs == pytest.approx(0.5, rel=1e-6)
    assert distance.relative_rms == pytest.approx(0.5 / np.linalg.norm(reference.astype(np.float64)), rel=1e-6)


def test_a_scaled_output_has_cosine_one_and_another_psnr():
    reference = np.linspace(-1, 1, 101, dtype=np.float32)
    distance = measure(reference * 2, reference)
    assert distance.cosine == pytest.approx(1, abs=1e-12)
    assert distance.relative_rms == pytest.approx(1, rel=1e-6)


def test_equal_arrays_are_infinitely_good():
    distance = measure(np.ones(3, np.float32), np.ones(3, np.float32))
    assert (distance.max_abs, distance.relative_max, distance.relative_rms, distance.cosine) == (0, 0, 0, 1)
    assert distance.psnr == math.inf


def test_numbers_that_are_nearly_equal_are_judged_by_their_size():
    reference = np.float32([2, 2 + 1e-3])
    distance = measure(reference + np.float32(2e-6), reference)
    assert distance.peak == pytest.approx(2, rel=1e-3)
    assert distance.psnr == pytest.approx(120, abs=1)
    assert distance.relative_max == pytest.approx(1e-6, rel=0.1)


def test_a_flat_reference_gives_no_nan_that_hides_an_error():
    distance = measure(np.float32([0, 1]), np.zeros(2, np.float32))
    assert distance.relative_max == distance.relative_rms == math.inf
    assert distance.psnr == -math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_infinities_and_nan_pass_no_gate(bad):
    reference = np.arange(4, dtype=np.float32)
    output = reference.copy()
    output[2] = bad
    distance = measure(output, reference)
    for value in (distance.max_abs, distance.relative_max, distance.relative_rms):
        assert not value <= 1e30
    assert not distance.cosine >= -1
    assert not distance.psnr >= -1e30


def test_psnr_of_images_takes_the_peak_it_is_given():
    assert psnr(np.full((2, 2, 3), 0.5), np.full((2, 2, 3), 0.4), peak=1.0) == pytest.approx(20)
