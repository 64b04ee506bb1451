"""MiniMax-H3: its own shift, noise at any time, repeated timesteps."""

import diffusers
import numpy as np
import torch

from diffoundry.runtime.schedulers import scheduler_class

NAME = "MiniMaxH3Scheduler"


def _pair():
    return scheduler_class(NAME)(), getattr(diffusers, NAME)()


def test_another_shift_is_for_the_runs_to_come():
    ours, theirs = _pair()
    for scheduler in (ours, theirs):
        scheduler.set_shift(3)
        assert scheduler.shift == 3.0
        assert scheduler.config.shift == 12.0
        scheduler.set_timesteps(6)
    np.testing.assert_array_equal(ours.sigmas, theirs.sigmas.numpy())


def test_noise_at_any_time_is_that_of_diffusers():
    ours, theirs = _pair()
    rng = np.random.default_rng(0)
    image, noise = rng.standard_normal((2, 3, 3, 4, 8), dtype=np.float32)
    for time in (0.3, np.array([0.1, 0.7, 1.0], np.float32)):
        got = ours.scale_noise(image, time, noise)
        theirs_time = torch.from_numpy(time) if isinstance(time, np.ndarray) else time
        expected = theirs.scale_noise(torch.from_numpy(image), theirs_time, torch.from_numpy(noise))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


def test_of_equal_timesteps_the_first_counts():
    ours, theirs = _pair()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(sigmas=[1.0, 1e-8, 1e-9, 0.0])
        assert scheduler.index_for_timestep(1.0) == 1
