"""Training noise schedules: beta_t, the variance added at training step t, and the products made of it.

    alpha_t = 1 - beta_t,    alpha_bar_t = alpha_1 * ... * alpha_t       (diffusers: `alphas_cumprod`)

Ho et al. 2020, section 2, https://arxiv.org/abs/2006.11239. All arrays are float32, (T,), t ascending.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, FloatArray
from diffoundry.runtime.schedulers.options import BetaOptions

__all__ = ["alphas_cumprod", "ending_at_zero", "make_betas", "options_betas", "without_zero_snr"]

F = TypeVar("F", bound=FloatArray)


def make_betas(
    schedule: str, *, start: float, end: float, count: int, trained: Sequence[float] | None = None
) -> Float32Array:
    """Compute the betas of a named schedule.

    | name | beta_t |
    |---|---|
    | linear | evenly spaced from start to end (Ho et al. 2020) |
    | scaled_linear | squares of evenly spaced roots (latent diffusion, Rombach et al. 2022) |
    | sigmoid | sigmoid from -6 to 6, scaled (GeoDiff, Xu et al. 2022) |
    | squaredcos_cap_v2 | from alpha_bar = cos^2 (Nichol & Dhariwal 2021, equation 17), capped at 0.999 |
    | laplace | from a Laplace distribution of the log SNR (Hang et al. 2024, arXiv 2407.03297) |
    | exp | from alpha_bar = exp(-12 t) (diffusers' Heun) |

    Args:
        schedule: one of the names above.
        start: first beta, where the schedule has one (diffusers: `beta_start`).
        end: last beta (diffusers: `beta_end`).
        count: T, number of training steps.
        trained: the betas themselves, instead of a schedule (diffusers: `trained_betas`).
    """
    if trained is not None:
        return np.asarray(trained, dtype=np.float32)
    if schedule == "linear":
        return float32.linspace(start, end, count)
    if schedule == "scaled_linear":
        roots = float32.linspace(start**0.5, end**0.5, count)
        return roots * roots
    if schedule == "sigmoid":
        # Python's float keeps both products in float32, as torch's scalars do
        return float32.sigmoid(float32.linspace(-6, 6, count)) * (end - start) + start
    alpha_bar = _ALPHA_BAR[schedule]
    betas = [min(1 - alpha_bar((i + 1) / count) / alpha_bar(i / count), 0.999) for i in range(count)]
    return np.array(betas, dtype=np.float32)


def _laplace(t: float) -> float:
    snr = math.exp(-0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * math.fabs(0.5 - t) + 1e-6))
    return math.sqrt(snr / (1 + snr))


_ALPHA_BAR: dict[str, Callable[[float], float]] = {
    "squaredcos_cap_v2": lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2,
    "laplace": _laplace,
    "exp": lambda t: math.exp(t * -12.0),
}


def options_betas(options: BetaOptions) -> Float32Array:
    """Compute the betas of a scheduler's options, rescaled when `rescale_betas_zero_snr` says so."""
    betas = make_betas(
        options.beta_schedule,
        start=options.beta_start,
        end=options.beta_end,
        count=options.num_train_timesteps,
        trained=options.trained_betas,
    )
    return rescale_zero_terminal_snr(betas) if getattr(options, "rescale_betas_zero_snr", False) else betas


def alphas_cumprod(betas: Float32Array) -> Float32Array:
    """Compute alpha_bar_t: the part of the image's variance that is left at training step t."""
    return float32.cumprod(np.float32(1) - betas)


def rescale_zero_terminal_snr(betas: Float32Array) -> Float32Array:
    """Change the betas so that alpha_bar ends at exactly zero; diffusers has the same name."""
    alpha_bar = ending_at_zero(alphas_cumprod(betas))
    return np.float32(1) - np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def ending_at_zero(alpha_bar: F) -> F:
    """Shift and scale sqrt(alpha_bar) so that it ends at exactly zero and starts where it did.

    Lin et al. 2023, Algorithm 1, https://arxiv.org/abs/2305.08891.
    """
    root = np.sqrt(alpha_bar)
    first, last = root[0], root[-1]
    root = root - last
    root = root * (first / (first - last))
    rescaled: F = root * root
    return rescaled


def without_zero_snr(alpha_bar: Float32Array) -> Float32Array:
    """Replace the zero at the end of alpha_bar by 2^-24: the first sigma is 4096, not infinite."""
    return np.append(alpha_bar[:-1], np.float32(2.0**-24))
