"""Flow matching beyond the usual loop: noising images, timesteps for each token, changed shifts, carried options."""

import diffusers
import numpy as np
import pytest
import torch
from scheduler_harness.side_by_side import model

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import NotAffineError, lower, scheduler_class

EULER = "FlowMatchEulerDiscreteScheduler"
SCALING = (EULER, "FlowMatchLCMScheduler")
FLOW_CONFIG = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "use_karras_sigmas": True,
    "shift_terminal": 0.05,
    "num_train_timesteps": 500,
}


def _pair(name, **options):
    return scheduler_class(name)(**options), getattr(diffusers, name)(**options)


def _arrays(*shape):
    rng = np.random.default_rng(2)
    return [rng.standard_normal(shape, dtype=np.float32) for _ in range(2)]


def _close(got, expected):
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SCALING)
def test_scale_noise_looks_each_timestep_up(name):
    ours, theirs = _pair(name, shift=2.0)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(6)
    image, noise = _arrays(3, 2, 4, 4)
    chosen = [4, 0, 2]
    expected = theirs.scale_noise(*map(torch.from_numpy, (image,)), theirs.timesteps[chosen], torch.from_numpy(noise))
    _close(ours.scale_noise(image, ours.timesteps[chosen], noise), expected)
    _close(ours.add_noise(image, noise, ours.timesteps[chosen]), expected)


@pytest.mark.parametrize("name", SCALING)
def test_scale_noise_of_a_run_that_starts_in_the_middle_takes_its_place(name):
    ours, theirs = _pair(name)
    image, noise = _arrays(2, 2, 4, 4)
    p, n = torch.from_numpy(image), torch.from_numpy(noise)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(6)
        scheduler.set_begin_index(2)
    _close(ours.scale_noise(image, ours.timesteps[:1], noise), theirs.scale_noise(p, theirs.timesteps[:1], n))
    ours.step(noise, ours.timesteps[2], image)
    theirs.step(n, theirs.timesteps[2], p)
    _close(ours.scale_noise(image, ours.timesteps[:1], noise), theirs.scale_noise(p, theirs.timesteps[:1], n))


def test_heun_scales_noise_at_its_place_in_the_run():
    ours, theirs = _pair("FlowMatchHeunDiscreteScheduler", shift=2.0)
    image, noise = _arrays(2, 2, 4, 4)
    p, n = torch.from_numpy(image), torch.from_numpy(noise)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(6)
    _close(ours.scale_noise(image, ours.timesteps[3], noise), theirs.scale_noise(p, theirs.timesteps[3], n))
    assert ours.step_index == theirs.step_index
    for t in (3, 4):
        ours.step(noise, ours.timesteps[t], image)
        theirs.step(n, theirs.timesteps[t], p)
        _close(ours.add_noise(image, noise, ours.timesteps[:1]), theirs.scale_noise(p, theirs.timesteps[0], n))


def test_flow_map_scales_noise_at_any_timestep():
    ours, theirs = _pair("FlowMapEulerDiscreteScheduler", num_train_timesteps=400)
    image, noise = _arrays(2, 2, 4, 4)
    timesteps = np.array([399.5, 12.0], dtype=np.float32)
    expected = theirs.scale_noise(torch.from_numpy(image), torch.from_numpy(timesteps), torch.from_numpy(noise))
    _close(ours.scale_noise(image, timesteps, noise), expected)


@pytest.mark.parametrize("stochastic", [False, True])
def test_every_token_has_its_own_timestep(stochastic):
    """As LTX-Video's pipeline does it: known frames are at zero, and the output's sign is turned."""
    ours, theirs = _pair(EULER, stochastic_sampling=stochastic, shift=2.0)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(6)
    sample, mask = _arrays(2, 5, 4)[0], np.array([[1, 0, 1, 0.3, 0.9], [0.5, 1, 1, 0, 1]], dtype=np.float32)
    generators = TorchCpuGenerator(1), torch.Generator().manual_seed(1)
    theirs_sample = torch.from_numpy(sample)
    for t in ours.timesteps:
        per_token = np.minimum(t, 1000 * mask)
        output, expected = -model(sample, t, 5), -model(theirs_sample.numpy(), t, 5)
        sample = ours.step(output, t, sample, per_token_timesteps=per_token, generator=generators[0]).prev_sample
        theirs_sample = theirs.step(
            torch.from_numpy(expected),
            torch.tensor(t),
            theirs_sample,
            per_token_timesteps=torch.from_numpy(per_token),
            generator=generators[1],
        ).prev_sample
        _close(sample, theirs_sample)
    assert ours.step_index == theirs.step_index == 6


def test_timesteps_for_each_token_are_not_affine():
    scheduler = scheduler_class(EULER)()
    scheduler.set_timesteps(2)
    with pytest.raises(NotAffineError, match=f"{EULER} cannot be lowered.*'per_token_timesteps'"):
        lower(scheduler, per_token_timesteps=np.zeros((1, 2), dtype=np.float32))


@pytest.mark.parametrize("name", SCALING)
def test_set_shift_is_for_the_runs_to_come(name):
    ours, theirs = _pair(name, shift=2.0)
    for scheduler in (ours, theirs):
        scheduler.set_shift(5.0)
        scheduler.set_timesteps(7)
    assert ours.shift == theirs.shift == 5.0
    np.testing.assert_array_equal(ours.sigmas, theirs.sigmas.numpy())
    assert ours.options.shift == 2.0


def test_set_scale_factors_is_for_the_runs_to_come():
    ours, theirs = _pair("FlowMatchLCMScheduler")
    sample = _arrays(1, 2, 4, 4)[0]
    for scheduler in (ours, theirs):
        scheduler.set_scale_factors([2.0], "nearest")
        scheduler.set_timesteps(2)
    got = ours.step(sample, ours.timesteps[0], sample, generator=TorchCpuGenerator(4)).prev_sample
    given = torch.from_numpy(sample)
    expected = theirs.step(given, theirs.timesteps[0], given, generator=torch.Generator().manual_seed(4)).prev_sample
    assert got.shape == (1, 2, 8, 8)
    _close(got, expected)


@pytest.mark.parametrize("config", [{}, FLOW_CONFIG, {**FLOW_CONFIG, "use_dynamic_shifting": False}])
def test_ltx_takes_its_schedule_from_the_flow_options_in_its_config(config):
    name = "LTXEulerAncestralRFScheduler"
    ours = scheduler_class(name).from_config(scheduler_class(EULER)(**config).config)
    theirs = getattr(diffusers, name).from_config(diffusers.FlowMatchEulerDiscreteScheduler(**config).config)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(9, mu=0.9)
    np.testing.assert_array_equal(ours.sigmas, theirs.sigmas.numpy())
    np.testing.assert_array_equal(ours.timesteps, theirs.timesteps.numpy())
    assert ours.num_inference_steps == theirs.num_inference_steps


def test_ltx_refuses_a_dynamic_shift_without_mu():
    scheduler = scheduler_class("LTXEulerAncestralRFScheduler").from_config({"use_dynamic_shifting": True})
    with pytest.raises(InputError, match="set_timesteps needs mu, because the option 'use_dynamic_shifting' is true"):
        scheduler.set_timesteps(3)


def test_a_terminal_needs_two_sigmas():
    scheduler = scheduler_class(EULER)(shift_terminal=0.1)
    with pytest.raises(InputError, match=r"last of 1 sigmas is 1, expected less: the option 'shift_terminal' = 0.1"):
        scheduler.set_timesteps(1)
    with pytest.raises(ConfigError, match="option 'shift_terminal' is 1.0, expected less than 1"):
        scheduler_class(EULER)(shift_terminal=1.0)


def test_flow_map_counts_from_where_the_run_starts():
    ours, theirs = _pair("FlowMapEulerDiscreteScheduler")
    sample = _arrays(1, 2, 4, 4)[0]
    given = torch.from_numpy(sample)
    for timestep, r_timestep, begin in ((750.0, None, None), (333.0, 20.0, None), (500.0, None, 3)):
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(4)
            if begin is not None:
                scheduler.set_begin_index(begin)
        got = ours.step(sample, timestep, sample, r_timestep=r_timestep).prev_sample
        _close(got, theirs.step(given, timestep, given, r_timestep=r_timestep).prev_sample)
        assert ours.step_index == theirs.step_index
    assert ours.index_for_timestep(500.0004) == theirs.index_for_timestep(500.0004) == 2
    assert theirs.index_for_timestep(333.0) is None
    with pytest.raises(InputError, match="timestep 333.0 is not in the schedule, expected one of `timesteps`"):
        ours.index_for_timestep(333.0)
