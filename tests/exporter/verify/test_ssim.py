"""SSIM against scikit-image's numbers, and against the formula written out window by window."""

import math

import numpy as np
import pytest

from diffoundry.exporter.verify.checks.ssim import ssim


def _images():
    """Three colours, (32, 40, 3) in 0..1: two ramps and a disc; and what may become of them."""
    y, x = np.mgrid[0:32, 0:40] / 40
    reference = np.stack([x, y, np.hypot(x - 0.5, y - 0.4) < 0.3], -1).astype(np.float32)
    rng = np.random.default_rng(7)
    noise = np.clip(reference + rng.normal(0, 0.1, reference.shape), 0, 1).astype(np.float32)
    return reference, {
        "noise": noise,
        "darker": reference * np.float32(0.95),
        "shifted": np.roll(reference, 2, 1),
        "unrelated": rng.random(reference.shape).astype(np.float32),
        "inverted": 1 - reference,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # scikit-image 0.26.0: structural_similarity(output, reference, channel_axis=-1, data_range=1,
        # gaussian_weights=True, sigma=1.5, use_sample_covariance=False), on float64
        ("noise", 0.41369777049536927),
        ("darker", 0.9977484320366666),
        ("shifted", 0.7878401351277838),
        ("unrelated", 0.0042451685087875266),
        ("inverted", -0.333393505477043),
    ],
)
def test_the_numbers_are_scikit_images(name, expected):
    reference, outputs = _images()
    assert ssim(outputs[name], reference) == pytest.approx(expected, abs=1e-10)


def test_the_formula_window_by_window():
    reference, outputs = _images()
    x, y = outputs["noise"][:14, :13].astype(np.float64), reference[:14, :13].astype(np.float64)
    places = np.arange(11) - 5
    weights = np.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2))
    weights = (weights / weights.sum())[..., None]
    values = []
    for top in range(4):
        for left in range(3):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (weights * a).sum((0, 1)), (weights * b).sum((0, 1))
            var_a, var_b = (weights * (a - mean_a) ** 2).sum((0, 1)), (weights * (b - mean_b) ** 2).sum((0, 1))
            cov = (weights * (a - mean_a) * (b - mean_b)).sum((0, 1))
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            values.append(luminance * (2 * cov + 9e-4) / (var_a + var_b + 9e-4))
    assert ssim(x, y) == pytest.approx(np.mean(values), abs=1e-12)


def test_equal_images_give_one_and_the_order_does_not_matter():
    reference, outputs = _images()
    assert ssim(reference, reference) == pytest.approx(1, abs=1e-12)
    assert ssim(outputs["noise"], reference) == pytest.approx(ssim(reference, outputs["noise"]), abs=1e-14)


def test_a_image_smaller_than_the_window_has_a_number_too():
    ramp = np.linspace(0, 1, 8 * 5 * 3).reshape(8, 5, 3)
    assert ssim(ramp, ramp) == pytest.approx(1, abs=1e-12)
    assert ssim(1 - ramp, ramp) < 0.5


def test_a_nan_anywhere_gives_nan():
    reference, outputs = _images()
    outputs["noise"][3, 4, 1] = math.nan
    assert math.isnan(ssim(outputs["noise"], reference))
