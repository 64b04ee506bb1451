"""Batches of timesteps of one run, as parallel sampling needs them, against diffusers."""

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import scheduler_class

SHAPE = (4, 3, 4, 8)


def _arrays(channels=3):
    rng = np.random.default_rng(3)
    output = rng.standard_normal((4, channels, 4, 8), dtype=np.float32)
    return output, rng.standard_normal(SHAPE, dtype=np.float32)


def _pair(name, options, steps=10):
    pair = scheduler_class(name)(**options), getattr(diffusers, name)(**options)
    for scheduler in pair:
        if steps:
            scheduler.set_timesteps(steps)
    return pair


def _compare(ours, theirs, output, sample, **arguments):
    timesteps = np.array([900, 500, 100, 0])
    expected = theirs.batch_step_no_noise(
        torch.from_numpy(output), torch.from_numpy(timesteps), torch.from_numpy(sample), **arguments
    )
    got = ours.batch_step_no_noise(output, timesteps, sample, **arguments)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("limit", [{"clip_sample": False}, {"clip_sample_range": 0.7}, {"thresholding": True}])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("use_clipped_model_output", [True, False])
def test_ddim(prediction_type, limit, set_alpha_to_one, use_clipped_model_output):
    options = {"prediction_type": prediction_type, "set_alpha_to_one": set_alpha_to_one, **limit}
    ours, theirs = _pair("DDIMParallelScheduler", options)
    _compare(ours, theirs, *_arrays(), use_clipped_model_output=use_clipped_model_output)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("limit", [{"clip_sample": False}, {"clip_sample_range": 0.7}, {"thresholding": True}])
@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("steps", [10, None])
def test_ddpm(prediction_type, limit, variance_type, steps):
    options = {"prediction_type": prediction_type, "variance_type": variance_type, **limit}
    ours, theirs = _pair("DDPMParallelScheduler", options, steps)
    _compare(ours, theirs, *_arrays(6 if variance_type == "learned_range" else 3))


def test_ddim_adds_no_noise():
    output, sample = _arrays()
    ours, theirs = _pair("DDIMParallelScheduler", {})
    with pytest.raises(AssertionError):
        _compare(ours, theirs, output, sample, eta=0.5)
    with pytest.raises(InputError, match="batch_step_no_noise: eta is 0.5, expected 0"):
        ours.batch_step_no_noise(output, [9] * 4, sample, eta=0.5)


def test_ddim_needs_a_planned_run():
    with pytest.raises(InputError, match="no run is planned. Call set_timesteps first"):
        scheduler_class("DDIMParallelScheduler")().batch_step_no_noise(*_arrays()[:1], [9] * 4, _arrays()[1])
