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
