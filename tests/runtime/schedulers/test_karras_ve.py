"""Karras et al.'s stochastic sampler: its own schedule."""

import diffusers
import numpy as np
import pytest

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import scheduler_class


@pytest.mark.parametrize("steps", [2, 5, 50])
def test_levels_are_those_of_diffusers(steps):
    """One unit in the last place: torch's powers are not correctly rounded."""
    ours, theirs = scheduler_class("KarrasVeScheduler")(), diffusers.KarrasVeScheduler()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(steps)
    assert ours.schedule.dtype == np.float32
    np.testing.assert_array_max_ulp(ours.schedule, theirs.schedule.numpy(), maxulp=1)
    np.testing.assert_allclose(ours.schedule[[0, -1]], [0.02**2, 100**2], rtol=1e-5)


def test_one_step_is_refused():
    """diffusers computes NaN there."""
    with pytest.raises(InputError, match="num_inference_steps is 1, expected at least 2: its levels hold both"):
        scheduler_class("KarrasVeScheduler")().set_timesteps(1)
