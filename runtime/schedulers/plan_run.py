"""Plans a run by its number of steps, or by the caller's own timesteps or sigmas."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.base import Scheduler
from diffoundry.runtime.schedulers.dynamic_shift import mu_for

__all__ = ["plan_run"]


def plan_run(
    scheduler: Scheduler[Any],
    steps: int,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    mu: float | None,
    image_tokens: int | None,
    even_sigmas: bool,
    compute_mu: Callable[[int, int], float] | None = None,
) -> int:
    """Set the timesteps of a scheduler.

    diffusers: `retrieve_timesteps`, and `calculate_shift` of `StableDiffusion3Pipeline`.

    Args:
        scheduler: Gets the plan.
        steps: Number of steps.
        timesteps: The caller's own timesteps instead.
        sigmas: The caller's own sigmas instead.
        mu: Exponent of the resolution-dependent shift; None computes it from `image_tokens`.
        image_tokens: Number of tokens, from which mu follows where the scheduler takes one and the call has none.
        even_sigmas: True if sigmas fall evenly from 1 to 1 / steps where none are named, before any shift. Schedulers
            that take no sigmas, or have `use_flow_sigmas`, place them themselves. diffusers: `FluxPipeline.__call__`.
        compute_mu: (image tokens, steps) -> mu; None computes it with `mu_for`.

    Returns:
        The number of steps as the caller counts them; the scheduler may make more.

    Raises:
        InputError: Both lists are given, or the scheduler does not take them.
    """
    if timesteps is not None and sigmas is not None:
        raise InputError("timesteps and sigmas: got both, expected at most one of them")
    if mu is None and image_tokens is not None:
        own = compute_mu if scheduler.takes_mu else None
        mu = mu_for(scheduler, image_tokens) if own is None else own(image_tokens, steps)
    placed = "sigmas" not in scheduler.custom_schedules or scheduler.config.get("use_flow_sigmas")
    if even_sigmas and timesteps is None and sigmas is None and not placed:
        sigmas = np.linspace(1.0, 1 / steps, steps).tolist()
    own_schedule = timesteps is not None or sigmas is not None
    scheduler.set_timesteps(None if own_schedule else steps, timesteps=timesteps, sigmas=sigmas, mu=mu)
    return len(scheduler.timesteps) if own_schedule else steps
