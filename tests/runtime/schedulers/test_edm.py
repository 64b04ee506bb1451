"""Euler for EDM models: a clean sample that the caller predicts."""

import diffusers
import numpy as np
import torch

from diffoundry.runtime.schedulers import scheduler_class


def test_a_given_x0_takes_the_place_of_the_models():
    ours, theirs = scheduler_class("EDMEulerScheduler")(), diffusers.EDMEulerScheduler()
    rng = np.random.default_rng(0)
    output, sample, clean = rng.standard_normal((3, 1, 3, 4, 8), dtype=np.float32)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(4)
    got = ours.step(output, ours.timesteps[1], sample, pred_original_sample=clean)
    expected = theirs.step(
        torch.from_numpy(output),
        theirs.timesteps[1],
        torch.from_numpy(sample),
        pred_original_sample=torch.from_numpy(clean),
    )
    assert got.pred_original_sample is clean
    np.testing.assert_allclose(got.prev_sample, expected.prev_sample.numpy(), atol=1e-6)
