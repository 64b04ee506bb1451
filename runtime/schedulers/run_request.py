"""The arguments of `set_timesteps`, checked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.errors import InputError

__all__ = ["MAX_STEPS", "RunRequest"]

MAX_STEPS = 100_000
"""Most steps of a run. At a millisecond a step it takes two minutes, and its plan a few megabytes."""

_LARGEST = 1e30
"""Bound of timesteps, noise levels and shifts; float32 ends at 3e38."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The arguments of `set_timesteps`. At least one of the first three is not None."""

    num_inference_steps: int | None = None
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    mu: float | None = None

    @property
    def steps(self) -> int:
        """Number of steps: `num_inference_steps`, or the length of the list that replaces it."""
        if self.num_inference_steps is not None:
            return self.num_inference_steps
        given = self.timesteps if self.timesteps is not None else self.sigmas
        return 0 if given is None else len(given)

    def require_mu(self, owner: str) -> float:
        """Return mu.

        Raises:
            InputError: mu is None.
        """
        if self.mu is None:
            raise InputError(
                f"{owner}.set_timesteps needs mu, because the option 'use_dynamic_shifting' is true. Pass the exponent "
                "of the shift for this image size (see `mu_for`), or turn the option off."
            )
        return self.mu

    def check(self, owner: str, *, takes: frozenset[str], combines: bool) -> None:
        """Refuse arguments that a scheduler does not take, none at all, and those that exclude each other.

        Args:
            owner: the scheduler's class name, for the message.
            takes: as `Scheduler.custom_schedules`.
            combines: as `Scheduler.combines_schedules`.

        Raises:
            InputError: naming the arguments.
        """
        subject, names = f"{owner}.set_timesteps", ["num_inference_steps", *sorted(takes)]
        for name in ("timesteps", "sigmas", "mu"):
            value = getattr(self, name)
            if value is not None and name not in takes:
                raise InputError(f"{subject} does not take '{name}'. It takes {', '.join(names)}.")
            if value is not None:
                _check_numbers(f"{subject}: '{name}'", value, single=name == "mu")
        counts = [name for name in ("num_inference_steps", "timesteps", "sigmas") if name in names]
        given = [name for name in counts if getattr(self, name) is not None]
        if not given or (len(given) > 1 and not combines):
            got, expected = " and ".join(given) or "nothing", ", ".join(counts)
            raise InputError(f"{subject}: got {got}, expected exactly one of {expected}.")
        steps = self.num_inference_steps
        if steps is None:
            return
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
            raise InputError(f"{subject}: num_inference_steps is {steps!r}, expected a whole number.")
        if steps < 1:
            raise InputError(f"{subject}: num_inference_steps is {steps}, expected at least 1.")
        if steps > MAX_STEPS:
            raise InputError(f"{subject}: num_inference_steps is {steps}, expected at most {MAX_STEPS}.")


def _check_numbers(subject: str, value: object, *, single: bool) -> None:
    """Refuse what is neither a finite number nor, unless `single`, a list of 1 to `MAX_STEPS` of them.

    Raises:
        InputError: As said.
    """
    count = len(value) if hasattr(value, "__len__") else 1
    if count == 0:
        raise InputError(f"{subject} is empty, expected at least one value.")
    if count > MAX_STEPS:
        raise InputError(f"{subject} has {count} values, expected at most {MAX_STEPS}.")
    expected = "a number" if single else "a list of numbers"
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{subject}: got {str(value)[:60]}, expected {expected}.") from error
    if array.ndim != (0 if single else 1) or isinstance(value, str) or not np.all(np.abs(array) < _LARGEST):
        raise InputError(f"{subject}: got {str(value)[:60]}, expected {expected}.")
