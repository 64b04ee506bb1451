"""Noise levels and scales of the solvers in lambda = log(alpha / sigma)."""

import math

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Float64Array

__all__ = ["flow_sigmas", "half_log_snr", "lu_sigmas", "variance_preserving"]


def lu_sigmas(sigma_min: float, sigma_max: float, steps: int) -> Float64Array:
    """Evenly spaced in lambda = -log sigma. Lu et al. 2022, section 3.4, https://arxiv.org/abs/2206.00927.

    diffusers: `use_lu_lambdas`. The logarithms are taken in float32, as there.
    """
    log_min, log_max = float(np.log(np.float32(sigma_min))), float(np.log(np.float32(sigma_max)))
    return np.exp(log_max + np.linspace(0, 1, steps) * (log_min - log_max))


def flow_sigmas(shift: float, train_steps: int, steps: int) -> Float64Array:
    """Evenly spaced in time and shifted towards noise: s sigma / (1 + (s - 1) sigma), without the final zero.

    Esser et al. 2024, equation 23, https://arxiv.org/abs/2403.03206. diffusers: `use_flow_sigmas`, `flow_shift`.
    """
    sigmas = 1.0 - np.linspace(1, 1 / train_steps, steps + 1)
    shifted = shift * sigmas / (1 + (shift - 1) * sigmas)
    result: Float64Array = shifted[::-1][:-1].copy()
    return result


def variance_preserving(sigma: float) -> tuple[float, float]:
    """The scales (alpha_t, sigma_t) of image and noise where the sample's variance stays one.

    alpha_t = 1 / sqrt(sigma^2 + 1), sigma_t = sigma alpha_t.

    diffusers: `_sigma_to_alpha_sigma_t`.
    """
    alpha_t = 1.0 / math.sqrt(sigma * sigma + 1.0)
    return alpha_t, sigma * alpha_t


def half_log_snr(alpha_t: float, sigma_t: float) -> float:
    """lambda_t = log alpha_t - log sigma_t; infinite at either end (diffusers: `lambda_t`)."""
    log_alpha = math.log(alpha_t) if alpha_t > 0 else -math.inf
    log_sigma = math.log(sigma_t) if sigma_t > 0 else -math.inf
    return log_alpha - log_sigma
