"""Noise levels: sigma = sqrt((1 - alpha_bar) / alpha_bar), the rules that place them, and sigma <-> timestep.

Karras et al. 2022, https://arxiv.org/abs/2206.00364, call sigma the standard deviation of the noise when the picture's
scale is kept at one. Arrays of a run are descending in sigma.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, FloatArray
from diffoundry.runtime.schedulers.arithmetic.beta_quantile import beta_quantile
from diffoundry.runtime.schedulers.options import SigmaSchedule

__all__ = [
    "beta_sigmas",
    "carried_ends",
    "exponential_sigmas",
    "flow_sigmas",
    "half_log_snr",
    "karras_sigmas",
    "lu_sigmas",
    "placed_sigmas",
    "sigma_to_timestep",
    "training_sigmas",
    "variance_preserving",
]

Float64Array = NDArray[np.float64]


def training_sigmas(alphas_cumprod: Float32Array) -> Float32Array:
    """The sigma of every training step, float32, (T,), ascending."""
    return float32.sqrt((np.float32(1) - alphas_cumprod) / alphas_cumprod)


def placed_sigmas(rule: SigmaSchedule, sigma_min: float, sigma_max: float, steps: int) -> Float64Array:
    """The noise levels of `use_karras_sigmas`, `use_exponential_sigmas` or `use_beta_sigmas`, float64, (steps,)."""
    make = {
        SigmaSchedule.KARRAS: karras_sigmas,
        SigmaSchedule.EXPONENTIAL: exponential_sigmas,
        SigmaSchedule.BETA: beta_sigmas,
    }[rule]
    return make(sigma_min, sigma_max, steps)


def carried_ends(config: Mapping[str, Any], low: float, high: float) -> tuple[float, float]:
    """The ends of `placed_sigmas`: `sigma_min` and `sigma_max` where a config has them, as another class's options too.

    diffusers: "make sure that other schedulers which copy this function don't break", in `_convert_to_karras`,
    `_convert_to_exponential`, `_convert_to_beta`.

    Args:
        config: a scheduler's, with the keys kept for compatible classes.
        low: the lower end of a run where the config has none.
        high: the upper end.

    Raises:
        ConfigError: an end that is no number.
    """
    ends = []
    for name, own in (("sigma_min", low), ("sigma_max", high)):
        value = config.get(name)
        if not isinstance(value, int | float | None):
            raise ConfigError(f"scheduler config: '{name}' is {value!r}, expected a number or null.")
        ends.append(own if value is None else float(value))
    return ends[0], ends[1]


def karras_sigmas(sigma_min: float, sigma_max: float, steps: int, rho: float = 7.0) -> Float64Array:
    """sigma_i = (max^(1/rho) + i/(n-1) (min^(1/rho) - max^(1/rho)))^rho. Karras et al. 2022, equation 5."""
    ramp = np.linspace(0, 1, steps)
    min_inv_rho = sigma_min ** (1 / rho)
    max_inv_rho = sigma_max ** (1 / rho)
    result: Float64Array = (max_inv_rho + ramp * (min_inv_rho - max_inv_rho)) ** rho
    return result


def exponential_sigmas(sigma_min: float, sigma_max: float, steps: int) -> Float64Array:
    """Evenly spaced in log sigma (k-diffusion: `get_sigmas_exponential`)."""
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), steps))


def beta_sigmas(sigma_min: float, sigma_max: float, steps: int) -> Float64Array:
    """Quantiles of Beta(0.6, 0.6), stretched to [min, max]. Lee et al. 2024, https://arxiv.org/abs/2407.12173."""
    quantiles = beta_quantile(1 - np.linspace(0, 1, steps), 0.6, 0.6)
    return sigma_min + quantiles * (sigma_max - sigma_min)


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


def sigma_to_timestep(
    sigmas: FloatArray, log_training_sigmas: Float32Array, dtype: type[np.floating[Any]] = np.float64
) -> FloatArray:
    """The (fractional) training step of each noise level, linear in log sigma between training steps.

    diffusers: `_sigma_to_t`.

    Args:
        sigmas: (N,), any order.
        log_training_sigmas: log of `training_sigmas`, (T,).
        dtype: of the result; float32 where diffusers computes with tensors.

    Returns:
        (N,), within [0, T - 1].
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
    result: FloatArray = (1 - weight) * step + weight * (step + 1)
    return result


def variance_preserving(sigma: float) -> tuple[float, float]:
    """The scales (alpha_t, sigma_t) of picture and noise where the sample's variance stays one.

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
