"""The resolution-dependent shift of flow-matching schedules."""

from typing import Any

from diffoundry.runtime.schedulers.base import Scheduler

__all__ = ["mu_for"]

_DEFAULTS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}


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


def _option(scheduler: Scheduler[Any], name: str, default: float) -> float:
    value = scheduler.config.get(name)
    return default if value is None else float(value)
