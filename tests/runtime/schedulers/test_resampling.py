"""Resizing against `torch.nn.functional.interpolate`."""

import numpy as np
import pytest
import torch

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.resampling import MODES, resample

SHAPES = {1: (7,), 2: (7, 10), 3: (3, 7, 10)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mode", "axes"), [(mode, axes) for mode, counts in MODES.items() for axes in counts])
def test_resample_is_that_of_torch(mode, axes, dtype):
    x = np.random.default_rng(3).standard_normal((2, 3, *SHAPES[axes])).astype(dtype)
    for first in range(1, 25):
        size = (first, 26 - first, 9)[:axes]
        expected = torch.nn.functional.interpolate(torch.from_numpy(x), size=size, mode=mode).numpy()
        got = resample(x, size, mode)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 if dtype == np.float32 else 1e-12)


def test_a_mode_for_other_dimensions_is_refused():
    with pytest.raises(
        InputError, match="resampling mode 'bicubic' is not for 3 spatial axes, expected one of nearest"
    ):
        resample(np.zeros((1, 1, 2, 2, 2), dtype=np.float32), (3, 3, 3), "bicubic")


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("bicubic", {"antialias": True}),
        ("bilinear", {"antialias": True}),
        ("bilinear", {"align_corners": True}),
        ("bicubic", {"align_corners": True}),
        ("bicubic", {"align_corners": True, "antialias": True}),
    ],
)
def test_filters_and_aligned_corners_are_those_of_torch(mode, options):
    """Karlo enlarges by the first, DeepFloyd IF by the third, Würstchen by the last."""
    random = np.random.default_rng(4)
    # Each side rounds the weights of the cubic kernel in its own way. Both are up to 1e-5 away from float64's result.
    close = 1e-6 if mode == "bilinear" else 2.5e-6
    for source, target in [
        ((8, 8), (32, 32)), ((64, 64), (256, 256)), ((9, 13), (37, 29)), ((5, 7), (5, 7)), ((1, 3), (4, 1)),
        ((40, 31), (7, 30)), ((33, 64), (64, 33)), ((64, 100), (1, 99)),
    ]:  # fmt: skip
        for dtype in (np.float32, np.float64):
            x = random.uniform(-1, 1, (2, 3, *source)).astype(dtype)
            wanted = torch.nn.functional.interpolate(torch.from_numpy(x), size=target, mode=mode, **options).numpy()
            got = resample(x, target, mode, **options)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, wanted, rtol=0, atol=close if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_the_nearest_pixel_is_that_of_torch_at_every_size(mode):
    x = np.arange(96, dtype=np.float32)[None, None]
    for source in (1, 7, 24, 31, 96):
        for target in range(1, 300):
            part = x[..., :source]
            wanted = torch.nn.functional.interpolate(torch.from_numpy(part), size=target, mode=mode).numpy()
            np.testing.assert_array_equal(resample(part, (target,), mode), wanted)
