"""LMS's coefficients, and arguments that Heun, KDPM2, IPNDM and UniPC take or refuse unlike diffusers."""

import diffusers
import numpy as np
import pytest
import torch
from scipy import integrate

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import scheduler_class
from diffoundry.runtime.schedulers.algorithms.lms_discrete import lagrange_integral

NODES = [14.6, 9.2, 3.1, 0.4]


def _lagrange(x, j, count):
    factors = [(x - NODES[k]) / (NODES[j] - NODES[k]) for k in range(count) if k != j]
    return float(np.prod(factors))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_lagrange_integrals_are_exact(count):
    for j in range(count):
        expected, _ = integrate.quad(lambda x, j=j: _lagrange(x, j, count), 14.6, 8.0)
        assert lagrange_integral(NODES[:count], j, 14.6, 8.0) == pytest.approx(expected, rel=1e-12)


def test_lagrange_integrals_of_a_constant_are_the_step():
    assert sum(lagrange_integral(NODES, j, 3.1, 0.4) for j in range(4)) == pytest.approx(0.4 - 3.1, rel=1e-12)


def test_lms_has_the_coefficients_of_diffusers():
    ours, theirs = (cls() for cls in (scheduler_class("LMSDiscreteScheduler"), diffusers.LMSDiscreteScheduler))
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    sigmas = ours.sigmas.tolist()
    for order, i in ((1, 0), (2, 1), (3, 4), (4, 7)):
        nodes = [sigmas[i - j] for j in range(order)]
        for j in range(order):
            expected = theirs.get_lms_coefficient(order, i, j)
            assert lagrange_integral(nodes, j, sigmas[i], sigmas[i + 1]) == pytest.approx(expected, rel=1e-4)


def test_kdpm2_ancestral_survives_a_step_so_steep_that_diffusers_gets_nan():
    name, options = "KDPM2AncestralDiscreteScheduler", {"num_train_timesteps": 2000}
    ours, theirs = scheduler_class(name)(**options), getattr(diffusers, name)(**options)
    sample = np.ones((1, 2, 4, 4), dtype=np.float32)
    given, generator = torch.from_numpy(sample), TorchCpuGenerator(0)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(2)
    for t, theirs_t in zip(ours.timesteps, theirs.timesteps, strict=True):
        sample = ours.step(sample, t, sample, generator=generator).prev_sample
        given = theirs.step(given, theirs_t, given).prev_sample
    assert not torch.isfinite(given).all()
    assert np.isfinite(sample).all()


@pytest.mark.parametrize("betas", [[0.5], [1.2, 0.5]])
def test_ipndm_needs_betas_that_have_an_alpha_and_a_next_one(betas):
    with pytest.raises(ConfigError, match="option 'trained_betas' is .*expected two or more numbers from -1 to 1"):
        scheduler_class("IPNDMScheduler")(trained_betas=betas)


def test_flow_schedulers_need_a_training_step():
    with pytest.raises(ConfigError, match="option 'num_train_timesteps' is 0, expected at least 1"):
        scheduler_class("FlowMatchEulerDiscreteScheduler")(num_train_timesteps=0)


def test_sigmas_beside_an_option_that_places_them_are_refused():
    scheduler = scheduler_class("UniPCMultistepScheduler")(use_karras_sigmas=True, use_flow_sigmas=True)
    with pytest.raises(
        InputError,
        match="UniPCMultistepScheduler.set_timesteps: got sigmas, but the option 'use_karras_sigmas' places them. "
        "Pass num_inference_steps, or turn the option off",
    ):
        scheduler.set_timesteps(sigmas=[0.9, 0.5])
