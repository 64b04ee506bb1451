"""The shared arithmetic against torch, SciPy and formulas."""

import numpy as np
import pytest
import scipy.stats
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr as their_rescale
from scheduler_harness.correct_rounding import CorrectRounding
from scheduler_harness.side_by_side import ulp_distance
from scheduler_harness.tables import check_each

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import scheduler_class
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.beta_quantile import beta_quantile
from diffoundry.runtime.schedulers.arithmetic.betas import rescale_zero_terminal_snr
from diffoundry.runtime.schedulers.arithmetic.prediction import epsilon_from, x0_from
from diffoundry.runtime.schedulers.arithmetic.thresholding import dynamic_threshold

VALUES = np.random.default_rng(0).uniform(0.001, 9, 4000).astype(np.float32)


@pytest.mark.parametrize(("start", "stop"), [(1e-4, 0.02), (0.00085**0.5, 0.012**0.5), (-6, 6), (5.1, -4.6)])
def test_linspace_is_torch_bit_for_bit(start, stop):
    def check(count):
        expected = torch.linspace(start, stop, count, dtype=torch.float32).numpy()
        np.testing.assert_array_equal(float32.linspace(start, stop, count), expected)

    check_each([1, 2, 3, 8, 15, 16, 17, 50, 100, 999, 1000, 2000, 4001], check)


def test_cumprod_is_torch_bit_for_bit():
    values = (1 - VALUES / 500).astype(np.float32)
    np.testing.assert_array_equal(float32.cumprod(values), torch.from_numpy(values).cumprod(0).numpy())


@pytest.mark.parametrize("name", ["sqrt", "exp", "log", "sigmoid"])
def test_elementary_functions_are_torch_to_the_last_place(name):
    expected = getattr(torch, name)(torch.from_numpy(VALUES)).numpy()
    assert ulp_distance(getattr(float32, name)(VALUES), expected) <= 2
    with CorrectRounding():
        exact = getattr(torch, name)(torch.from_numpy(VALUES)).numpy()
    np.testing.assert_array_equal(getattr(float32, name)(VALUES), exact)


def test_log_of_zero_is_minus_infinity():
    assert float32.log(np.zeros(1, dtype=np.float32))[0] == -np.inf


def test_rescaled_betas_end_at_zero_snr():
    betas = float32.linspace(1e-4, 0.02, 1000)
    rescaled = rescale_zero_terminal_snr(betas)
    assert rescaled[-1] == 1.0
    with CorrectRounding():
        np.testing.assert_array_equal(rescaled, their_rescale(torch.from_numpy(betas)).numpy())


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.3, 2.0), (2.0, 3.0), (5.0, 1.0), (1.0, 1.0)])
def test_beta_quantile_is_that_of_scipy(a, b):
    probability = np.concatenate([np.linspace(0, 1, 401), [1e-12, 1e-6, 1 - 1e-9]])
    expected = scipy.stats.beta.ppf(probability, a, b)
    np.testing.assert_allclose(beta_quantile(probability, a, b), expected, rtol=1e-13, atol=2e-14)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.995, 1.0])
@pytest.mark.parametrize("max_value", [0.5, 1.0, 1.3, 100.0, None])
def test_dynamic_threshold_is_that_of_diffusers(ratio, max_value):
    x0 = np.random.default_rng(3).standard_normal((4, 3, 7, 9)).astype(np.float32) * np.float32(2)
    x0[0] *= 0.1  # an image that is in range stays as it is
    options = {"thresholding": True, "dynamic_thresholding_ratio": ratio, "sample_max_value": max_value}
    import diffusers

    expected = diffusers.DDIMScheduler(**options)._threshold_sample(torch.from_numpy(x0)).numpy()
    got = dynamic_threshold(x0, ratio=ratio, max_value=max_value)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=3e-7)


def test_predictions_invert_each_other():
    """With x = alpha x0 + sigma epsilon, each kind of output gives back the same x0 and epsilon."""
    rng = np.random.default_rng(4)
    x0, epsilon = rng.standard_normal(5), rng.standard_normal(5)
    for kind, alpha, sigma, output in (
        ("epsilon", 0.6, 0.8, epsilon),
        ("sample", 0.6, 0.8, x0),
        ("v_prediction", 0.6, 0.8, 0.6 * epsilon - 0.8 * x0),
        ("flow_prediction", 0.3, 0.7, epsilon - x0),
    ):
        x = alpha * x0 + sigma * epsilon
        np.testing.assert_allclose(x0_from(kind, output, x, alpha=alpha, sigma=sigma), x0, rtol=1e-12)
        np.testing.assert_allclose(epsilon_from(kind, output, x, alpha=alpha, sigma=sigma), epsilon, rtol=1e-12)


def test_predictions_out_of_nothing_are_refused():
    with pytest.raises(ConfigError, match="'prediction_type' is 'epsilon' at a timestep where x is pure noise"):
        x0_from("epsilon", 1.0, 1.0, alpha=0.0, sigma=1.0)
    with pytest.raises(ConfigError, match="'prediction_type' is 'sample' at a timestep where x holds no noise"):
        epsilon_from("sample", 1.0, 1.0, alpha=1.0, sigma=0.0)


def test_zero_snr_with_epsilon_is_refused_instead_of_nan():
    scheduler = scheduler_class("DDIMScheduler")(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    scheduler.set_timesteps(2)
    x = np.ones((1, 3, 2, 2), dtype=np.float32)
    with pytest.raises(ConfigError, match="Use 'v_prediction' with 'rescale_betas_zero_snr', or a timestep spacing"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_fixed_large_log_is_fixed_large():
    """diffusers takes the root of log beta, NaN; Glide stores the logarithm of the same variance."""
    results = []
    for kind in ("fixed_large", "fixed_large_log"):
        scheduler = scheduler_class("DDPMScheduler")(variance_type=kind)
        scheduler.set_timesteps(4)
        x = np.ones((1, 3, 2, 2), dtype=np.float32)
        ones = type("Ones", (), {"randn": lambda self, shape, dtype: np.ones(shape, dtype)})()
        results.append(scheduler.step(x, scheduler.timesteps[0], x, generator=ones).prev_sample)
    np.testing.assert_array_equal(*results)
    assert np.isfinite(results[0]).all()


def test_a_list_of_generators_must_match_the_batch():
    scheduler = scheduler_class("DDPMScheduler")()
    scheduler.set_timesteps(4)
    x = np.ones((2, 3, 2, 2), dtype=np.float32)
    with pytest.raises(InputError, match="list of 3 random generators was passed for noise of shape"):
        scheduler.step(x, scheduler.timesteps[0], x, generator=[TorchCpuGenerator(0)] * 3)
