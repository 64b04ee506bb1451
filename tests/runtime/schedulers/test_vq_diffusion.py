"""VQ-Diffusion: the posterior itself, and options without a schedule."""

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers import scheduler_class

NAME = "VQDiffusionScheduler"


def _log_probabilities(rng, classes):
    logits = 3 * rng.standard_normal((2, classes - 1, 40), dtype=np.float32)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("t", [1, 2, 40, 99])
def test_posterior_is_that_of_diffusers(t):
    rng = np.random.default_rng(7)
    ours, theirs = scheduler_class(NAME)(num_vec_classes=9), getattr(diffusers, NAME)(num_vec_classes=9)
    log_p, tokens = _log_probabilities(rng, 9), rng.integers(0, 9, (2, 40))
    got = ours.q_posterior(log_p, tokens, t)
    expected = theirs.q_posterior(torch.from_numpy(log_p), torch.from_numpy(tokens), torch.tensor(t)).numpy()
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)


def test_posterior_is_bayes_rule():
    """By enumeration, with probabilities instead of their logarithms: equation 11 of the paper."""
    rng = np.random.default_rng(8)
    classes, t = 5, 30
    scheduler = scheduler_class(NAME)(num_vec_classes=classes)
    log_p, tokens = _log_probabilities(rng, classes), rng.integers(0, classes, (2, 40))

    def matrix(transitions, i):
        a, b, c = (np.exp(np.float64(values[i])) for values in (transitions.a, transitions.b, transitions.c))
        q = np.full((classes, classes), b)  # q[x, y]: from class y to class x
        q[np.diag_indices(classes)] += a
        q[-1], q[:, -1] = c, 0.0
        q[-1, -1] = 1.0
        return q

    single = matrix(scheduler._single, t)
    product, before = matrix(scheduler._cumulative, t), matrix(scheduler._cumulative, t - 1)
    expected = np.einsum(
        "bpy,yx,bpx,bxp->byp", single[tokens], before[:, :-1], 1 / product[tokens][..., :-1], np.exp(log_p)
    )
    np.testing.assert_allclose(np.exp(scheduler.q_posterior(log_p, tokens, t)), expected, rtol=1e-4, atol=1e-7)


def test_without_a_generator_classes_are_drawn_unseeded():
    scheduler = scheduler_class(NAME)(num_vec_classes=9)
    tokens = np.full((2, 40), 8)
    log_p = np.full((2, 8, 40), -np.log(8.0), np.float32)
    draws = [scheduler.step(log_p, 1, tokens).prev_sample for _ in range(2)]
    assert not np.array_equal(*draws)
    assert draws[0].max() < 9


def test_probabilities_above_one_are_refused():
    """diffusers computes NaN there."""
    with pytest.raises(ConfigError, match=r"to keep and to mask a class add up to 1\.0.*lower 'alpha_cum_start'"):
        scheduler_class(NAME)(num_vec_classes=5, gamma_cum_start=0.001)


@pytest.mark.parametrize("options", [{"num_vec_classes": 1}, {"num_vec_classes": 5, "num_train_timesteps": 1}])
def test_options_without_a_schedule_are_refused(options):
    """diffusers computes NaN there."""
    with pytest.raises(ConfigError, match=r"option 'num_\w+' is 1, expected at least 2"):
        scheduler_class(NAME)(**options)
