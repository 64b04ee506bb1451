"""From a planned scheduler to a `SamplingPlan`: its own `step`, run on linear forms instead of arrays."""

from typing import Any, cast

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.affine import LinearForm, NotAffineError, Symbol
from diffoundry.runtime.schedulers.base import Scheduler
from diffoundry.runtime.schedulers.plan import PlanStep, SamplingPlan

__all__ = ["lower"]


class _SymbolicNoise:
    """A generator whose every draw is a new symbol."""

    def __init__(self) -> None:
        self.drawn = 0

    def randn(self, shape: tuple[int, ...], dtype: Any = None) -> LinearForm:  # noqa: ARG002 - a generator's signature
        form = LinearForm.of("noise", self.drawn)
        self.drawn += 1
        return form


def lower(scheduler: Scheduler[Any], *, begin: int | None = None, **step_arguments: Any) -> SamplingPlan:
    """Read the coefficients of a planned run off the scheduler.

    `set_timesteps` must have been called, and `set_begin_index` where the scheduler has one and the run starts in the
    middle. The scheduler itself is not touched.

    Args:
        scheduler: any scheduler whose update is affine in the sample, the model's outputs and the noises.
        begin: index of the first timestep of the run; by default the scheduler's begin index, or 0.
        step_arguments: what the sampling loop would pass to `step` besides output, timestep and sample, for
            example `eta=1.0`.

    Raises:
        NotAffineError: the update is not affine; names the scheduler and the option.
        InputError: `set_timesteps` was not called.
    """
    name = type(scheduler).__name__
    if scheduler.num_inference_steps is None and "timesteps" not in scheduler.custom_schedules:
        raise InputError(f"lower({name}): no run is planned, call set_timesteps first.")
    fork = scheduler.copy()
    noise = _SymbolicNoise()
    start = begin if begin is not None else getattr(fork, "begin_index", None) or 0
    if scheduler.not_affine is not None:
        raise _refusal(name, scheduler.not_affine)
    try:
        steps = tuple(
            _lower_step(fork, i, timestep, noise, step_arguments)
            for i, timestep in enumerate(fork.model_timesteps[start:])
        )
    except NotAffineError as error:
        raise _refusal(name, error) from None
    return SamplingPlan(scheduler=name, init_noise_sigma=float(fork.init_noise_sigma), steps=steps)


def _refusal(name: str, what: object) -> NotAffineError:
    return NotAffineError(
        f"{name} cannot be lowered to a sampling plan: {what} is not affine in sample, outputs and noises. "
        "Turn it off, or run the scheduler itself."
    )


def _lower_step(
    scheduler: Scheduler[Any], i: int, timestep: Any, noise: _SymbolicNoise, step_arguments: dict[str, Any]
) -> PlanStep:
    sample, output = LinearForm.of("sample", i), LinearForm.of("output", i)
    fed: LinearForm = scheduler.scale_model_input(sample, timestep)
    if set(fed.terms) != {Symbol("sample", i)}:
        raise NotAffineError("feeding the model anything but a multiple of the sample")
    drawn = noise.drawn
    following: LinearForm = scheduler.loop_step(
        output, timestep, sample, generator=cast(Any, noise), **step_arguments
    ).prev_sample
    if not following.is_finite():
        raise NotAffineError(f"step {i} has an infinite coefficient, which")
    return PlanStep(
        timestep=float(timestep),
        input_scale=fed.terms[Symbol("sample", i)],
        draws=noise.drawn - drawn,
        samples=_row(following, "sample", i) or (0.0,),
        outputs=_row(following, "output", i),
        noises=_row(following, "noise", noise.drawn - 1),
    )


def _row(form: LinearForm, kind: str, newest: int) -> tuple[float, ...]:
    """Coefficients by age, newest first, without trailing zeros."""
    row = {newest - symbol.index: c for symbol, c in form.terms.items() if symbol.kind == kind and c != 0.0}
    return tuple(row.get(age, 0.0) for age in range(max(row, default=-1) + 1))
