"""Training noise schedules: beta_t, the variance added at training step t, and the products made of it.

    alpha_t = 1 - beta_t,    alpha_bar_t = alpha_1 * ... * alpha_t       (diffusers: `alphas_cumprod`)

Ho et al. 2020, section 2, https://arxiv.org/abs/2006.11239. All arrays are float32, (T,), t ascending.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array
from diffoundry.runtime.schedulers.options import BetaOptions

__all__ = [
    "alphas_cumprod",
    "ending_at_zero",
    "make_betas",
    "options_betas",
    "rescale_zero_terminal_snr",
    "without_zero_snr",
]

F = TypeVar("F", bound=NDArray[np.floating[Any]])


def make_betas(
    schedule: str, *, start: float, end: float, count: int, trained: Sequence[float] | None = None
) -> Float32Array:
    """The betas of a named schedule.

    | name | beta_t |
    |---|---|
    | linear | evenly spaced from start to end (Ho et al. 2020) |
    | scaled_linear | squares of evenly spaced roots (latent diffusion, Rombach et al. 2022) |
    | squaredcos_cap_v2 | from alpha_bar = cos^2 (Nichol & Dhariwal 2021, equation 17), capped at 0.999 |
    | laplace | from a Laplace distribution of the log SNR (Hang et al. 2024, arXiv 2407.03297) |
    | exp | from alpha_bar = exp(-12 t) (diffusers' Heun) |
    | sigmoid | sigmoid from -6 to 6, scaled (GeoDiff, Xu et al. 2022) |

    Args:
        schedule: one of the names above; the options' annotation says which of them a scheduler takes.
        start: first beta, where the schedule has one (diffusers: `beta_start`).
        end: last beta (diffusers: `beta_end`).
        count: T, number of training steps.
        trained: the betas themselves; wins over everything else (diffusers: `trained_betas`).
    """
    if trained is not None:
        return np.asarray(trained, dtype=np.float32)
    if schedule == "linear":
        return float32.linspace(start, end, count)
    if schedule == "scaled_linear":
        roots = float32.linspace(start**0.5, end**0.5, count)
        return roots * roots
    if schedule == "squaredcos_cap_v2":
        return _from_alpha_bar(_cosine, count)
    if schedule == "laplace":
        return _from_alpha_bar(_laplace, count)
    if schedule == "exp":
        return _from_alpha_bar(_exponential, count)
    if schedule == "sigmoid":
        # Python's float keeps both products in float32, as torch's scalars do
        return float32.sigmoid(float32.linspace(-6, 6, count)) * (end - start) + start
    raise ValueError(f"beta schedule {schedule!r}")  # the options' check lets none of these through


def _from_alpha_bar(alpha_bar: Callable[[float], float], count: int) -> Float32Array:
    betas = [min(1 - alpha_bar((i + 1) / count) / alpha_bar(i / count), 0.999) for i in range(count)]
    return np.array(betas, dtype=np.float32)


def _cosine(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(t: float) -> float:
    log_snr = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * math.fabs(0.5 - t) + 1e-6)
    snr = math.exp(log_snr)
    return math.sqrt(snr / (1 + snr))


def _exponential(t: float) -> float:
    return math.exp(t * -12.0)


def rescale_zero_terminal_snr(betas: Float32Array) -> Float32Array:
    """Shift and scale sqrt(alpha_bar) so that it ends at exactly zero and starts where it did.

    Lin et al. 2023, Algorithm 1, https://arxiv.org/abs/2305.08891. diffusers: `rescale_zero_terminal_snr`.
    """
    alpha_bar = ending_at_zero(alphas_cumprod(betas))
    alphas = np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return np.float32(1) - alphas


def ending_at_zero(alpha_bar: F) -> F:
    """The same alpha_bar with its square root shifted and scaled, as `rescale_zero_terminal_snr` says."""
    root = np.sqrt(alpha_bar)
    first, last = root[0], root[-1]
    root = root - last
    root = root * (first / (first - last))
    rescaled: F = root * root
    return rescaled


def alphas_cumprod(betas: Float32Array) -> Float32Array:
    """alpha_bar_t: what is left of the picture's variance at training step t."""
    return float32.cumprod(np.float32(1) - betas)


def without_zero_snr(alpha_bar: Float32Array) -> Float32Array:
    """The same alpha_bar ending at 2^-24 instead of the zero of rescaling: the first sigma is 4096, not infinite."""
    return np.append(alpha_bar[:-1], np.float32(2.0**-24))


def options_betas(options: BetaOptions) -> Float32Array:
    """The betas that a scheduler's options ask for, rescaled when `rescale_betas_zero_snr` says so."""
    betas = make_betas(
        options.beta_schedule,
        start=options.beta_start,
        end=options.beta_end,
        count=options.num_train_timesteps,
        trained=options.trained_betas,
    )
    return rescale_zero_terminal_snr(betas) if getattr(options, "rescale_betas_zero_snr", False) else betas
