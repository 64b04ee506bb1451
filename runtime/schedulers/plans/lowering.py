"""From a planned scheduler to a `SamplingPlan`: runs its own `step` on linear forms instead of arrays."""

from typing import Any, cast

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.base import Scheduler
from diffoundry.runtime.schedulers.plans.linear_form import LinearForm, NotAffineError, Symbol
from diffoundry.runtime.schedulers.plans.sampling_plan import PlanStep, SamplingPlan

__all__ = ["lower"]

_NEVER_AFFINE = {
    "CosineDPMSolverMultistepScheduler": "noise from a Brownian path",
    "DPMSolverSDEScheduler": "noise from a Brownian path",
    "KarrasVeScheduler": "feeding the model anything but a multiple of the sample",
    "PiflowScheduler": "a sum over the n_grid outputs that share the model's channels",
    "RePaintScheduler": "the blend with argument 'mask'",
    "ScoreSdeVeScheduler": "the corrector's step size (`step_correct`)",
    "VQDiffusionScheduler": "the choice of the most likely class",
}
"""Schedulers without a sampling plan, with the computation that is not affine."""

_CAUSES = {
    "absolute": ("thresholding",),
    "clip": ("clip_sample", "clip_denoised"),
    "getitem": ("variance_type",),
    "moveaxis": ("scale_factors",),
    "multiply": ("per_token_timesteps",),
}
"""The options and arguments of `step` that need an operation that is not affine."""


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

    Call `set_timesteps` before, and `set_begin_index` where the scheduler has one and the run starts in the middle.
    The scheduler itself is not touched.

    Args:
        scheduler: any scheduler whose update is affine in the sample, the model's outputs and the noises.
        begin: index of the first timestep of the run; by default the scheduler's begin index, or 0.
        step_arguments: further arguments of `step`, for example `eta=1.0`.

    Raises:
        NotAffineError: the update is not affine; names the scheduler and the option.
        InputError: `set_timesteps` was not called.
    """
    name = type(scheduler).__name__
    if scheduler.num_inference_steps is None and "timesteps" not in scheduler.custom_schedules:
        raise InputError(f"lower({name}): no run is planned. Call set_timesteps first.")
    fork = scheduler.copy()
    noise = _SymbolicNoise()
    start = begin if begin is not None else getattr(fork, "begin_index", None) or 0
    if name in _NEVER_AFFINE:
        raise _refusal(name, _NEVER_AFFINE[name])
    try:
        steps = tuple(
            _lower_step(fork, i, timestep, noise, step_arguments)
            for i, timestep in enumerate(fork.model_timesteps[start:])
        )
    except NotAffineError as error:
        raise _refusal(name, _cause(error, scheduler, step_arguments)) from None
    return SamplingPlan(scheduler=name, init_noise_sigma=float(fork.init_noise_sigma), steps=steps)


def _cause(error: NotAffineError, scheduler: Scheduler[Any], step_arguments: dict[str, Any]) -> str:
    """Name the option or argument that needs the operation; without a known one, the operation."""
    for name in _CAUSES.get(error.operation or "", ()):
        if scheduler.config.get(name) or name in step_arguments:
            return f"option '{name}'"
    return str(error)


def _refusal(name: str, cause: str) -> NotAffineError:
    return NotAffineError(
        f"{name} cannot be lowered to a sampling plan: {cause} is not affine in sample, outputs and noises. "
        "Turn it off, or run the scheduler itself."
    )


def _lower_step(
    scheduler: Scheduler[Any], i: int, timestep: Any, noise: _SymbolicNoise, step_arguments: dict[str, Any]
) -> PlanStep:
    sample, output = LinearForm.of("sample", i), LinearForm.of("output", i, scheduler.output_channels(1)[-1])
    drawn = noise.drawn
    scaled, following = _advance(scheduler, timestep, sample, output, noise, step_arguments)
    if set(scaled.terms) != {Symbol("sample", i)}:
        raise NotAffineError("feeding the model anything but a multiple of the sample")
    if not following.is_finite():
        raise NotAffineError(f"step {i} has an infinite coefficient, which")
    return PlanStep(
        timestep=float(timestep),
        input_scale=scaled.terms[Symbol("sample", i)],
        draws=noise.drawn - drawn,
        samples=_row(following, "sample", i) or (0.0,),
        outputs=_row(following, "output", i),
        noises=_row(following, "noise", noise.drawn - 1),
    )


def _advance(
    scheduler: Scheduler[Any],
    timestep: Any,
    sample: LinearForm,
    output: LinearForm,
    noise: _SymbolicNoise,
    step_arguments: dict[str, Any],
) -> tuple[LinearForm, LinearForm]:
    """Call the scheduler with linear forms as arrays; return the scaled input and the next sample."""
    x, y, generator = cast(Sample, sample), cast(Sample, output), cast(Generator, noise)
    scaled = scheduler.scale_model_input(x, timestep)
    following = scheduler.loop_step(y, timestep, x, generator=generator, **step_arguments).prev_sample
    return cast(LinearForm, scaled), cast(LinearForm, following)


def _row(form: LinearForm, kind: str, newest: int) -> tuple[float, ...]:
    """Coefficients by age, newest first, without trailing zeros."""
    row = {newest - symbol.index: c for symbol, c in form.terms.items() if symbol.kind == kind and c != 0.0}
    return tuple(row.get(age, 0.0) for age in range(max(row, default=-1) + 1))
