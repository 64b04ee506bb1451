"""DDIM backwards: the older name of an option, and that it undoes DDIM."""

import diffusers
import numpy as np
import pytest

from diffoundry.runtime.schedulers import scheduler_class, scheduler_from_config


@pytest.mark.parametrize("older", [False, True])
def test_older_name_of_set_alpha_to_one_is_obeyed(older):
    """diffusers: the deprecated `set_alpha_to_zero` replaces the value of `set_alpha_to_one`."""
    config = {"_class_name": "DDIMInverseScheduler", "set_alpha_to_one": not older, "set_alpha_to_zero": older}
    ours, theirs = scheduler_from_config(config), diffusers.DDIMInverseScheduler.from_config(dict(config))
    assert ours._initial_alpha_bar == float(theirs.initial_alpha_cumprod)


def test_undoes_ddim():
    """A constant epsilon makes both exact: noise made from a sample leads back to it."""
    options = {"clip_sample": False, "set_alpha_to_one": False, "beta_schedule": "scaled_linear"}
    there = scheduler_class("DDIMInverseScheduler")(**options)
    back = scheduler_class("DDIMScheduler")(**options)
    there.set_timesteps(10)
    back.set_timesteps(10)
    rng = np.random.default_rng(2)
    clean, epsilon = rng.standard_normal((2, 1, 3, 4, 8))
    sample = clean
    for timestep in there.timesteps:
        sample = there.step(epsilon, timestep, sample).prev_sample
    assert np.abs(sample - clean).max() > 0.1
    for timestep in back.timesteps:
        sample = back.step(epsilon, timestep, sample).prev_sample
    np.testing.assert_allclose(sample, clean, atol=1e-12)
