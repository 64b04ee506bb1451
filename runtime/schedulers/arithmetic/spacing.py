"""The training timesteps of a run: the three spacings of Lin et al. 2023, Table 2, https://arxiv.org/abs/2305.08891."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spacing", "spaced_timesteps"]

Spacing = Literal["linspace", "leading", "trailing"]


def spaced_timesteps(spacing: Spacing, *, steps: int, train_steps: int, offset: int = 0) -> NDArray[np.float64]:
    """Compute the timesteps of a run, descending (diffusers: `timestep_spacing`).

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
