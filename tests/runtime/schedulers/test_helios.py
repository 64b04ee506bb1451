"""Helios: the ends of its stages, noise, and what it refuses although diffusers does not."""

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers import scheduler_class

NAMES = ("HeliosScheduler", "HeliosDMDScheduler")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [{}, {"gamma": 0.5, "shift": 3.0}, {"stages": 2, "stage_range": [0.1, 0.4, 1.0], "num_train_timesteps": 500}],
)
def test_ends_of_stages_are_those_of_diffusers(name, options):
    ours, theirs = scheduler_class(name)(**options), getattr(diffusers, name)(**options)
    for attribute in ("ori_start_sigmas", "start_sigmas", "end_sigmas"):
        expected = getattr(theirs, attribute)
        np.testing.assert_allclose(
            getattr(ours, attribute), [expected[i] for i in range(len(expected))], rtol=1e-13, atol=1e-15
        )


def test_noise_is_added_at_the_nearest_timesteps():
    ours, theirs = scheduler_class(NAMES[1])(stages=1), getattr(diffusers, NAMES[1])(stages=1)
    rng = np.random.default_rng(0)
    image, noise = rng.standard_normal((2, 2, 3, 1, 4, 8), dtype=np.float32)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(4)
    timesteps = np.array([740, 13])
    got = ours.add_noise(image, noise, timesteps, ours.sigmas, ours.timesteps)
    arrays = [torch.from_numpy(array) for array in (image, noise, timesteps)]
    expected = theirs.add_noise(*arrays, theirs.sigmas, theirs.timesteps)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, "option 'stages' is 0, expected at least 1"),
        ({"gamma": 0.0}, "option 'gamma' is 0.0, expected more than 0"),
        ({"stage_range": [0, 1.0, 1.0, 1.0]}, "each of which starts below 1"),
    ],
)
def test_stages_without_levels_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=f"{name}: .*{message}"):
        scheduler_class(name)(**options)


def test_no_solver_is_refused():
    with pytest.raises(ConfigError, match="option 'solver_order' is 0, expected at least 1"):
        scheduler_class(NAMES[0])(solver_order=0)


def test_levels_that_stages_place_are_refused():
    """diffusers ignores them."""
    with pytest.raises(InputError, match="got sigmas, but the option 'stages' = 3 places them"):
        scheduler_class(NAMES[0])().set_timesteps(2, 0, sigmas=[0.9, 0.5])
