"""Noise levels: sigma = sqrt((1 - alpha_bar) / alpha_bar), the rules that place them, and sigma <-> timestep.

Karras et al. 2022, https://arxiv.org/abs/2206.00364, call sigma the standard deviation of the noise when the image's
scale is kept at one. Arrays of a run are descending in sigma.
"""

import math
from typing import Any

import numpy as np

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Float64Array, FloatArray
from diffoundry.runtime.schedulers.arithmetic.beta_quantile import beta_quantile
from diffoundry.runtime.schedulers.options import SigmaSchedule

__all__ = ["placed_sigmas", "sigma_to_timestep", "training_sigmas"]


def training_sigmas(alphas_cumprod: Float32Array) -> Float32Array:
    """Compute the sigma of every training step, float32, (T,), ascending."""
    return float32.sqrt((np.float32(1) - alphas_cumprod) / alphas_cumprod)


def placed_sigmas(rule: SigmaSchedule, sigma_min: float, sigma_max: float, steps: int) -> Float64Array:
    """Place noise levels between their ends, float64, (steps,).

    | rule | levels |
    |---|---|
    | KARRAS | evenly spaced 7th roots (Karras et al. 2022, equation 5) |
    | EXPONENTIAL | evenly spaced logarithms (k-diffusion: `get_sigmas_exponential`) |
    | BETA | quantiles of Beta(0.6, 0.6), stretched (Lee et al. 2024, https://arxiv.org/abs/2407.12173) |
    """
    if rule is SigmaSchedule.EXPONENTIAL:
        return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), steps))
    ramp = np.linspace(0, 1, steps)
    if rule is SigmaSchedule.BETA:
        return sigma_min + beta_quantile(1 - ramp, 0.6, 0.6) * (sigma_max - sigma_min)
    rho = 7.0
    root_min, root_max = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    levels: Float64Array = (root_max + ramp * (root_min - root_max)) ** rho
    return levels


def sigma_to_timestep(
    sigmas: FloatArray, log_training_sigmas: Float32Array, dtype: type[np.floating[Any]] = np.float64
) -> FloatArray:
    """Compute the (fractional) training step of each noise level, linear in log sigma between training steps.

    Args:
        sigmas: (N,), any order.
        log_training_sigmas: log of `training_sigmas`, (T,).
        dtype: of the result; float32 where diffusers' `_sigma_to_t` computes with tensors.
    """
    log_sigma = np.log(np.maximum(sigmas, 1e-10))
    # the last training step that is not above; a rescaled schedule may turn down at its end, so no binary search
    reached = log_training_sigmas[:, np.newaxis] <= log_sigma
    count = len(log_training_sigmas)
    last = count - 1 - reached[::-1].argmax(axis=0)
    low_index = np.where(reached.any(axis=0), last, 0).clip(max=count - 2)
    low, high = log_training_sigmas[low_index], log_training_sigmas[low_index + 1]
    weight = np.clip((low - log_sigma) / (low - high), 0, 1)
    step = low_index.astype(dtype)
    timesteps: FloatArray = (1 - weight) * step + weight * (step + 1)
    return timesteps
