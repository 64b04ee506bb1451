"""SA-Solver with a function for tau, which no config can hold, and with an output that has a variance."""

import math

import numpy as np
import pytest
import torch
from scheduler_harness.side_by_side import SEED, make_theirs, model, relative_error, start

from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import scheduler_class


@pytest.mark.parametrize("algorithm", ["data_prediction", "noise_prediction"])
@pytest.mark.parametrize("orders", [(1, 1), (2, 2), (3, 4)])
def test_tau_func_is_that_of_diffusers(algorithm, orders):
    options = {
        "tau_func": math.cos,
        "algorithm_type": algorithm,
        "predictor_order": orders[0],
        "corrector_order": orders[1],
    }
    theirs, ours = make_theirs("SASolverScheduler", options), scheduler_class("SASolverScheduler")(**options)
    theirs.set_timesteps(9)
    ours.set_timesteps(9)
    generator, noise = torch.Generator().manual_seed(SEED), TorchCpuGenerator(SEED)
    expected, sample = torch.from_numpy(start(2)), start(2)
    for timestep in ours.timesteps:
        output = torch.from_numpy(model(expected.numpy(), timestep, 3))
        expected = theirs.step(output, torch.tensor(timestep), expected, generator=generator).prev_sample
        sample = ours.step(model(sample, timestep, 3), timestep, sample, generator=noise).prev_sample
        assert relative_error(sample, expected.numpy()) <= 1e-4


def test_a_learned_variance_is_not_used():
    output = np.random.default_rng(0).standard_normal((1, 6, 4, 8), dtype=np.float32)
    sample = np.random.default_rng(1).standard_normal((1, 3, 4, 8), dtype=np.float32)
    results = []
    for variance, given in (("learned", output), (None, output[:, :3])):
        scheduler = scheduler_class("SASolverScheduler")(variance_type=variance)
        scheduler.set_timesteps(5)
        generator = TorchCpuGenerator(0)
        results.append(scheduler.step(given, scheduler.timesteps[0], sample, generator=generator).prev_sample)
    np.testing.assert_array_equal(*results)
