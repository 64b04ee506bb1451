"""The resolution-dependent shift of flow-matching schedules."""

from typing import Any

from diffoundry.runtime.schedulers.base import Scheduler

__all__ = ["empirical_mu", "mu_for"]

_DEFAULTS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}

_MANY_TOKENS = 4300


def mu_for(scheduler: Scheduler[Any], image_tokens: int) -> float | None:
    """Compute the argument `mu` of `set_timesteps` from the number of image tokens.

    mu lies on the line through (`base_image_seq_len`, `base_shift`) and (`max_image_seq_len`, `max_shift`).

    Esser et al. 2024, section 5.3.2, https://arxiv.org/abs/2403.03206. diffusers: `calculate_shift`.

    Args:
        scheduler: its config holds the four options. Those missing or null take the defaults of
            `FlowMatchEulerDiscreteScheduler`.
        image_tokens: length of the sequence that the transformer sees, (height / patch) (width / patch).

    Returns:
        mu, or None where the scheduler does not use it.
    """
    if not scheduler.takes_mu:
        return None
    fewest, most, low, high = (_option(scheduler, name, default) for name, default in _DEFAULTS.items())
    slope = (high - low) / (most - fewest)
    return float(image_tokens * slope + (low - slope * fewest))


def empirical_mu(image_tokens: int, steps: int) -> float:
    """Compute the argument `mu` of `set_timesteps` as FLUX.2 does, from the numbers of image tokens and of steps.

    Below 4,300 tokens mu lies on the line through its values at 10 and 200 steps, each linear in the tokens. diffusers:
    `compute_empirical_mu` of `Flux2Pipeline`.

    Args:
        image_tokens: As `mu_for`.
        steps: Number of steps.
    """
    at_200 = 0.00016927 * image_tokens + 0.45666666
    if image_tokens > _MANY_TOKENS:
        return float(at_200)
    at_10 = 8.73809524e-05 * image_tokens + 1.89833333
    slope = (at_200 - at_10) / 190.0
    return float(slope * steps + (at_200 - 200.0 * slope))


def _option(scheduler: Scheduler[Any], name: str, default: float) -> float:
    value = scheduler.config.get(name)
    return default if value is None else float(value)
