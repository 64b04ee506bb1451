"""Brownian paths against torchsde, number for number."""

import numpy as np
import pytest
import torch
import torchsde
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers.arithmetic.brownian import BrownianNoise, BrownianPath, path_seed

SHAPE = (2, 3, 4, 8)
INTERVALS = [
    (9.0, 14.6),
    (3.3, 9.0),
    (0.03, 14.6),
    (1.234567, 3.3),
    (0.5, 0.500001),
    (0.0, 0.5),
    (14.0, 20.0),
    (2.0, 2.0),
]


@pytest.mark.parametrize("seed", [0, 11, 2**63 - 2])
def test_increments_are_those_of_torchsde(seed):
    ours = BrownianPath(0.03, 14.6, SHAPE, seed)
    theirs = torchsde.BrownianInterval(
        t0=0.03, t1=14.6, size=SHAPE, dtype=torch.float32, entropy=seed, tol=1e-6, pool_size=24, halfway_tree=True
    )
    for a, b in INTERVALS:
        with pytest.warns() if a < 0.03 or b > 14.6 else np.errstate():
            expected = theirs(a, b).numpy()
        got = ours.increment(a, b)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_a_path_does_not_depend_on_earlier_queries():
    used, fresh = BrownianPath(0.0, 10.0, (4,), 3), BrownianPath(0.0, 10.0, (4,), 3)
    for a, b in INTERVALS:
        used.increment(a, b)
    np.testing.assert_array_equal(used.increment(2.5, 7.125), fresh.increment(2.5, 7.125))
    halves = fresh.increment(2.5, 4.0) + fresh.increment(4.0, 7.125)
    np.testing.assert_allclose(halves, fresh.increment(2.5, 7.125), atol=1e-6)


@pytest.mark.parametrize("seed", [5, [5, 9]])
def test_noise_is_that_of_diffusers(seed):
    sample = np.zeros(SHAPE, dtype=np.float32)
    ours = BrownianNoise(SHAPE, 0.3, 500.0, seed)
    theirs = BrownianTreeNoiseSampler(torch.zeros(SHAPE), 0.3, 500.0, seed)
    for sigma, following in ((500.0, 321.5), (321.5, 44.0), (44.0, 0.3)):
        got = ours(sigma, following, sample)
        np.testing.assert_allclose(got, theirs(sigma, following).numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours(2.0, 2.0, sample), sample)


def test_seeds_are_those_of_the_generators():
    assert path_seed(TorchCpuGenerator(7)) == 7
    assert path_seed([TorchCpuGenerator(7), TorchCpuGenerator(8)]) == [7, 8]
    assert path_seed(None) != path_seed(None)
    with pytest.raises(InputError, match="got 3 generators for a batch of 2, expected as many"):
        BrownianNoise(SHAPE, 0.3, 5.0, [1, 2, 3])
