"""A run of a scheduler as data: a table of coefficients that any language can execute."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.untrusted_json import load_json
from diffoundry.runtime.schedulers.arithmetic.arrays import Sample

__all__ = ["PLAN_VERSION", "PlanStep", "SamplingPlan", "execute"]

PLAN_VERSION = 1
_MOST_DRAWS = 100
"""Most noises of a step; no scheduler draws more than two."""

_FORMAT = "diffoundry.sampling-plan"


@dataclass(frozen=True, kw_only=True)
class PlanStep:
    """One call of the model and the update after it.

    The model is fed (input_scale * sample, timestep). With the lists of all samples, outputs and noises so far,
    newest first, the next sample is

        sum_k samples[k] * sample_k + sum_k outputs[k] * output_k + sum_k noises[k] * noise_k

    Attributes:
        timestep: the model's timestep input.
        input_scale: what the sample is multiplied with before the model sees it.
        draws: how many noises are drawn after the model call, before the update; also those of coefficient zero,
            so that a generator stays in step.
        samples: coefficients of the current sample, the one before, ...
        outputs: coefficients of this call's output, the one before, ...
        noises: coefficients of the last noise drawn, the one before, ...
    """

    timestep: float
    input_scale: float
    draws: int
    samples: tuple[float, ...]
    outputs: tuple[float, ...]
    noises: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """All steps of a run, in float64.

    Attributes:
        scheduler: class name of the scheduler that was lowered.
        init_noise_sigma: what the first noise is multiplied with.
        steps: in order.
    """

    scheduler: str
    init_noise_sigma: float
    steps: tuple[PlanStep, ...]

    @property
    def history(self) -> int:
        """Number of samples, outputs and noises that an executor must remember."""
        return max((len(row) for step in self.steps for row in (step.samples, step.outputs, step.noises)), default=1)

    def to_json(self) -> str:
        """The plan as JSON text; Python writes float64 with all its digits."""
        return json.dumps({"format": _FORMAT, "version": PLAN_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "SamplingPlan":
        """Read `to_json`'s text.

        Raises:
            InputError: no JSON, another format, another version, a missing or unknown field.
        """
        try:
            raw = load_json(text)
        except ValueError as error:
            raise InputError(f"sampling plan: not JSON ({error}), expected the text of `to_json`.") from error
        if not isinstance(raw, dict) or raw.pop("format", None) != _FORMAT:
            raise InputError(f'sampling plan: expected a JSON object with "format": "{_FORMAT}".')
        version = raw.pop("version", None)
        if version != PLAN_VERSION:
            raise InputError(
                f"sampling plan: version is {version!r}, expected {PLAN_VERSION}: lower the scheduler again."
            )
        try:
            steps = tuple(_step_from(row) for row in raw.pop("steps"))
            scheduler, sigma = str(raw.pop("scheduler")), float(raw.pop("init_noise_sigma"))
            return cls(scheduler=scheduler, init_noise_sigma=sigma, steps=steps, **raw)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise InputError(f"sampling plan: a field is missing, unknown or of a wrong type ({error}).") from error


def execute(
    plan: SamplingPlan, sample: Sample, model: Callable[[Sample, float], Sample], noise: Callable[[], Sample]
) -> Sample:
    """Run a plan: the whole sampling loop, for any array library.

    Args:
        plan: what `lower` returned.
        sample: first sample, already multiplied with `plan.init_noise_sigma`, or with the start image's noise added.
        model: (scaled sample, timestep) to output.
        noise: draws the next standard normal array; not called where the plan draws none.

    Returns:
        The last sample.
    """
    samples, outputs, noises = (deque[Sample](maxlen=plan.history) for _ in range(3))
    samples.append(sample)
    for step in plan.steps:
        outputs.appendleft(model(samples[0] * step.input_scale, step.timestep))
        for _ in range(step.draws):
            noises.appendleft(noise())
        rows = ((step.samples, samples), (step.outputs, outputs), (step.noises, noises))
        terms = [c * array for row, arrays in rows for c, array in zip(row, arrays, strict=False)]
        samples.appendleft(sum(terms[1:], start=terms[0]))
    return samples[0]


def _step_from(row: Mapping[str, Any]) -> PlanStep:
    rows = {name: tuple(float(c) for c in row[name]) for name in ("samples", "outputs", "noises")}
    step = PlanStep(**{**row, **rows})
    numbers = all(type(value) in (int, float) for value in (step.timestep, step.input_scale))
    if not numbers or not step.samples or type(step.draws) is not int or not 0 <= step.draws <= _MOST_DRAWS:
        raise TypeError("timestep, input_scale, draws or samples")
    return step
