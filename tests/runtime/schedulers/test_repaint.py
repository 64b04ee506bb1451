"""RePaint: trained betas, which diffusers takes as an ndarray only, and noise added as DDPM adds it."""

import diffusers
import numpy as np
import torch

from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import scheduler_class

BETAS = np.linspace(0.001, 0.05, 30, dtype=np.float32)


def test_trained_betas_are_those_of_diffusers():
    options = {"num_train_timesteps": 30, "trained_betas": BETAS, "eta": 0.7}
    ours = scheduler_class("RePaintScheduler")(**options)
    theirs = diffusers.RePaintScheduler(**options)
    rng = np.random.default_rng(4)
    output, sample, picture, mask = rng.uniform(0, 1, (4, 1, 3, 4, 8)).astype(np.float32)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    generators = TorchCpuGenerator(6), torch.Generator().manual_seed(6)
    got = ours.step(output, 12, sample, picture, mask, generator=generators[0]).prev_sample
    tensors = [torch.from_numpy(array) for array in (output, sample, picture, mask)]
    expected = theirs.step(tensors[0], 12, *tensors[1:], generator=generators[1]).prev_sample
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)
    got = ours.undo_step(got, 9, generator=generators[0])
    expected = theirs.undo_step(expected, 9, generator=generators[1])
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


def test_noise_is_added_as_ddpm_does():
    arrays = np.ones((1, 3, 4, 8), np.float32), np.full((1, 3, 4, 8), 0.5, np.float32), [100]
    noisy = scheduler_class("RePaintScheduler")().add_noise(*arrays)
    np.testing.assert_array_equal(noisy, scheduler_class("DDPMScheduler")().add_noise(*arrays))
