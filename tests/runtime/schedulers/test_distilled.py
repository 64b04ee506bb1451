"""LCM, TCD, consistency models and sCM beyond the usual loop: outputs, where noise is drawn, where a run ends."""

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import lower, scheduler_class


def _step(name):
    ours, theirs = scheduler_class(name)(), getattr(diffusers, name)()
    sample = np.random.default_rng(2).standard_normal((1, 2, 4, 4), dtype=np.float32)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(4)
    got = ours.step(sample, ours.timesteps[0], sample, generator=TorchCpuGenerator(4))
    given = torch.from_numpy(sample)
    expected = theirs.step(given, theirs.timesteps[0], given, generator=torch.Generator().manual_seed(4))
    return got, expected


@pytest.mark.parametrize(("name", "other"), [("LCMScheduler", "denoised"), ("TCDScheduler", "pred_noised_sample")])
def test_a_step_returns_what_diffusers_does_by_the_same_names_and_in_the_same_order(name, other):
    got, expected = _step(name)
    for field in ("prev_sample", other):
        np.testing.assert_allclose(getattr(got, field), getattr(expected, field).numpy(), rtol=1e-5, atol=1e-6)
    assert got[0] is got.prev_sample
    assert got[1] is getattr(got, other)


def test_lcm_calls_its_clean_sample_by_the_name_of_the_others_too():
    got, _ = _step("LCMScheduler")
    assert got.pred_original_sample is got.denoised


def test_tcd_returns_the_clean_sample_too():
    got, _ = _step("TCDScheduler")
    sample = np.random.default_rng(2).standard_normal((1, 2, 4, 4), dtype=np.float32)
    scheduler = scheduler_class("TCDScheduler")()
    a = scheduler.alphas_cumprod[999]
    np.testing.assert_allclose(
        got.pred_original_sample, (sample - np.sqrt(1 - a) * sample) / np.sqrt(a), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "arguments", "draws"),
    [
        ("LCMScheduler", {}, [1, 1, 1, 0]),
        ("TCDScheduler", {}, [1, 1, 1, 0]),
        ("TCDScheduler", {"eta": 0.0}, [0, 0, 0, 0]),
        ("CMStochasticIterativeScheduler", {}, [1, 1, 1, 1]),
    ],
)
def test_noise_is_drawn_only_where_diffusers_draws_it(name, arguments, draws):
    options = {"clip_denoised": False} if name.startswith("CM") else {}
    scheduler, theirs = scheduler_class(name)(**options), getattr(diffusers, name)(**options)
    for one in (scheduler, theirs):
        one.set_timesteps(4)
    assert [step.draws for step in lower(scheduler, **arguments).steps] == draws

    generator, sample = torch.Generator().manual_seed(1), torch.zeros(1, 2, 4, 4)
    for t, expected in zip(theirs.timesteps, draws, strict=True):
        before = generator.get_state()
        theirs.step(sample, t, sample, generator=generator, **arguments)
        assert bool((generator.get_state() != before).any()) == bool(expected)


def test_one_step_of_a_consistency_model_draws_no_noise():
    scheduler = scheduler_class("CMStochasticIterativeScheduler")(clip_denoised=False)
    scheduler.set_timesteps(1)
    assert [step.draws for step in lower(scheduler).steps] == [0]


def test_a_consistency_model_needs_two_levels():
    with pytest.raises(ConfigError, match="option 'num_train_timesteps' is 1, expected at least 2"):
        scheduler_class("CMStochasticIterativeScheduler")(num_train_timesteps=1)


def test_scm_ends_where_its_last_timestep_is():
    scheduler = scheduler_class("SCMScheduler")()
    scheduler.set_timesteps(2)
    np.testing.assert_array_equal(scheduler.timesteps, np.array([1.5708, 1.3, 0.0], dtype=np.float32))
    np.testing.assert_array_equal(scheduler.model_timesteps, scheduler.timesteps[:2])
    assert len(lower(scheduler).steps) == 2


def test_scm_counts_its_steps_from_the_timesteps():
    scheduler = scheduler_class("SCMScheduler")()
    scheduler.set_timesteps(timesteps=[1.5, 0.7, 0.2], max_timesteps=None, intermediate_timesteps=None)
    assert scheduler.num_inference_steps == 2
