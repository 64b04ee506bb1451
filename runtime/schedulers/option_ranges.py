"""Ranges of the numbers that every training schedule depends on."""

from typing import Any

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.options import BetaOptions, SchedulerOptions

__all__ = ["MAX_TRAIN_TIMESTEPS", "check_ranges"]

MAX_TRAIN_TIMESTEPS = 100_000
"""Most noise levels of a training schedule; published models have 40 to 2,000."""


def check_ranges(options: SchedulerOptions, owner: str) -> None:
    """Refuse betas that are no variances, and training schedules that no memory holds.

    Raises:
        ConfigError: naming the option.
    """
    steps: int = getattr(options, "num_train_timesteps", 1)
    if steps > MAX_TRAIN_TIMESTEPS:
        raise _refusal(owner, "num_train_timesteps", steps, f"at most {MAX_TRAIN_TIMESTEPS}")
    offset: int = getattr(options, "steps_offset", 0)
    if abs(offset) > steps:
        raise _refusal(owner, "steps_offset", offset, f"at most num_train_timesteps = {steps}")
    if not isinstance(options, BetaOptions):
        return
    for name in ("beta_start", "beta_end"):
        if not 0 <= getattr(options, name) <= 1:
            raise _refusal(owner, name, getattr(options, name), "0 to 1: it is a variance")
    if not all(0 <= beta <= 1 for beta in options.trained_betas or ()):
        raise _refusal(owner, "trained_betas", "a list with other numbers", "variances from 0 to 1")


def _refusal(owner: str, name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"{owner}: option '{name}' is {value}, expected {expected}.")
