"""Which training timesteps a run visits: the three spacings of Lin et al. 2023, Table 2.

https://arxiv.org/abs/2305.08891. diffusers: `timestep_spacing`, `steps_offset`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError

__all__ = ["Spacing", "custom_timesteps", "spaced_timesteps", "spaced_timesteps_before_zero"]

Spacing = Literal["linspace", "leading", "trailing"]


def spaced_timesteps(spacing: Spacing, *, steps: int, train_steps: int, offset: int = 0) -> NDArray[np.float64]:
    """Timesteps of a run, descending.

    | spacing | for T = 1000, 10 steps |
    |---|---|
    | linspace | 999, 888, ..., 0, not rounded |
    | leading | 900, 800, ..., 0, plus offset |
    | trailing | 999, 899, ..., 99 |

    Args:
        spacing: the rule.
        steps: number of timesteps wanted.
        train_steps: T, number of training steps.
        offset: added to every timestep of "leading" (diffusers: `steps_offset`).

    Returns:
        float64, (steps,); "trailing" gives one more where T / steps is not exact in float64, as diffusers does.
    """
    if spacing == "linspace":
        return np.linspace(0, train_steps - 1, steps)[::-1].copy()
    if spacing == "leading":
        return (np.arange(steps) * (train_steps // steps))[::-1].astype(np.float64) + offset
    return np.arange(train_steps, 0, -train_steps / steps).round() - 1


def spaced_timesteps_before_zero(
    spacing: Spacing, *, steps: int, train_steps: int, last: int, offset: int = 0
) -> NDArray[np.int64]:
    """Timesteps for the solvers that count the end point t = 0 as one more step and drop it (the DPM family).

    Args:
        spacing: the rule.
        steps: number of timesteps wanted.
        train_steps: T, number of training steps.
        last: number of usable training steps, T less those cut off by `lambda_min_clipped`.
        offset: added to every timestep of "leading".

    Returns:
        int64, (steps,), descending.
    """
    if spacing == "linspace":
        return np.linspace(0, last - 1, steps + 1).round()[::-1][:-1].astype(np.int64)
    if spacing == "leading":
        return (np.arange(steps + 1) * (last // (steps + 1)))[::-1][:-1].astype(np.int64) + offset
    return np.arange(last, 0, -train_steps / steps).round().astype(np.int64) - 1


def custom_timesteps(owner: str, given: Sequence[float], train_steps: int) -> NDArray[np.int64]:
    """Timesteps that the caller has chosen, int64, checked: they descend from below T.

    Args:
        owner: the scheduler's class name, for the message.
        given: (N,), N at least one.
        train_steps: T, number of training steps.

    Raises:
        InputError: they do not.
    """
    timesteps = np.asarray(given, dtype=np.int64)
    if np.any(np.diff(timesteps) >= 0) or timesteps[0] >= train_steps:
        raise InputError(
            f"{owner}.set_timesteps: timesteps are {list(given)}, expected integers that descend from below "
            f"num_train_timesteps = {train_steps}."
        )
    return timesteps
