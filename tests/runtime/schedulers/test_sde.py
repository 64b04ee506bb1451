"""Score-based models: what their schedulers have beside steps."""

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import scheduler_class

NAME = "ScoreSdeVeScheduler"


@pytest.mark.parametrize("ends", [{}, {"sigma_min": 0.5}, {"sigma_min": 0.02, "sigma_max": 80.0}])
def test_levels_are_those_of_diffusers(ends):
    """One unit in the last place: torch's exponentials and powers are not correctly rounded."""
    ours, theirs = scheduler_class(NAME)(), getattr(diffusers, NAME)()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(13)
        scheduler.set_sigmas(13, **ends)
    for name in ("sigmas", "discrete_sigmas"):
        got, expected = getattr(ours, name), getattr(theirs, name).numpy()
        assert got.dtype == expected.dtype
        np.testing.assert_array_max_ulp(got, expected, maxulp=1)


def test_noise_is_added_at_indices():
    ours, theirs = scheduler_class(NAME)(), getattr(diffusers, NAME)()
    rng = np.random.default_rng(0)
    image, noise = rng.standard_normal((2, 3, 3, 4, 8), dtype=np.float32)
    indices = np.array([0, 700, 1999])
    got = ours.add_noise(image, noise, indices)
    expected = theirs.add_noise(torch.from_numpy(image), torch.from_numpy(noise), torch.from_numpy(indices))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)


def test_more_timesteps_than_levels_are_refused():
    scheduler = scheduler_class(NAME)(num_train_timesteps=5)
    scheduler.set_timesteps(9)
    sample = np.zeros((1, 3, 4, 8), np.float32)
    with pytest.raises(InputError, match=r"there are 5 noise levels for 9 timesteps. Call set_sigmas\(9\)"):
        scheduler.step_pred(sample, scheduler.timesteps[0], sample)
