"""Integer timesteps of a run: chosen by the caller, or spaced for the solvers that count t = 0 as one more step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing

__all__ = ["custom_timesteps", "spaced_timesteps_before_zero"]


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
    """Timesteps that the caller has chosen, int64, checked: whole numbers that descend from below T.

    Args:
        owner: the scheduler's class name, for the message.
        given: (N,), N at least one.
        train_steps: T, number of training steps.

    Raises:
        InputError: they do not.
    """
    timesteps = np.asarray(given, dtype=np.int64)
    whole = np.array_equal(timesteps, np.asarray(given))
    if not whole or np.any(np.diff(timesteps) >= 0) or timesteps[0] >= train_steps:
        raise InputError(
            f"{owner}.set_timesteps: got timesteps {list(given)}, expected integers that descend from below "
            f"num_train_timesteps = {train_steps}."
        )
    return timesteps
