"""The declaration of a scheduler's test: option values, runs, refusals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from scheduler_harness.covering import chosen_rows, covering_rows

STEPS = (1, 2, 5, 20, 50)
FEW = 12


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something that diffusers refuses, and the words with which we do.

    Attributes:
        match: regular expression for our message.
        options: of the constructor.
        set_timesteps: arguments of `set_timesteps`; None leaves it out.
        step: a function (scheduler, array maker) that makes the refused call, for what only `step` refuses.
    """

    match: str
    options: Mapping[str, Any] = field(default_factory=dict)
    set_timesteps: Mapping[str, Any] | None = None
    step: Callable[[Any, Callable[[], Any]], Any] | None = None


@dataclass(frozen=True)
class Case:
    """One configuration and one run of it."""

    options: dict[str, Any]
    set_timesteps: dict[str, Any]
    step: dict[str, Any]
    batch: int
    begin: float

    @property
    def values(self) -> dict[Any, Any]:
        """All that makes the case, by kind and name."""
        return {
            **{("option", name): value for name, value in self.options.items()},
            **{("step", name): value for name, value in self.step.items()},
            ("run", ""): self.set_timesteps,
            ("batch", ""): self.batch,
            ("begin", ""): self.begin,
        }

    def __str__(self) -> str:
        changed = {**self.options, **self.set_timesteps, **self.step}
        text = ",".join(f"{key}={_brief(value)}" for key, value in changed.items())
        return f"{text},batch={self.batch},begin={self.begin}"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """One scheduler's test.

    Attributes:
        name: class name.
        options: option name to the values to test, defaults included; every pair of values is run together. Options
            that allow only some combinations are one entry: a tuple of names to tuples of values.
        runs: arguments of `set_timesteps` to test, one dict each.
        step: argument of `step` to values, for example {"eta": (0.0, 0.5)}.
        begins: fractions of the run at which to start (image to image); the loop
            then skips the timesteps before, and calls `set_begin_index` where there is one.
        keep: (case) -> whether diffusers runs it to the end with finite numbers. Say why in a comment.
        not_affine: (case) -> the option that lowering must name, or None where the plan must reproduce the run.
        refusals: what both libraries refuse.
        output_channels: (case) -> the model's output channels for a sample of 3 channels; 6 for learned variances.
        tolerance: relative error allowed at every step in float32.
        magnification: (planned diffusers scheduler) -> the largest error of a step in float32, as a multiple
            of the rounding of its inputs; say why where it is not one.
        rounded_steps: whether diffusers' steps are compared in `CorrectRounding` too; say why.
        exact_tolerance: the same in float64; say why if it is above 1e-6.
        max_sigma_ulp: how many float32 ulp sigmas may differ from the correctly rounded diffusers; say why if > 0.
        at_least: least number of cases; the pairs alone need from 10 to 70.
        further: number of random cases beyond them, which run with `make test-slow` only.
        lacks: methods of the usual interface that diffusers' class refuses or has with other arguments.
        predicted: what a step's result holds beside the sample and is compared, where diffusers' has it.
        loop: the sampling loop where it is not the usual one: see `usual_loop`.
    """

    name: str
    options: Mapping[str | tuple[str, ...], Sequence[Any]]
    runs: Sequence[Mapping[str, Any]] = tuple({"num_inference_steps": steps} for steps in STEPS)
    step: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    begins: Sequence[float] = (0.0, 0.4)
    keep: Callable[[Case], bool] = lambda case: True
    not_affine: Callable[[Case], str | None] = lambda case: None
    refusals: Sequence[Refusal] = ()
    output_channels: Callable[[Case], int] = lambda case: 3
    tolerance: float = 1e-4
    magnification: Callable[[Any], float] = lambda scheduler: 1.0
    rounded_steps: bool = False
    exact_tolerance: float = 1e-6
    max_sigma_ulp: int = 0
    at_least: int = 24
    further: int = 40
    lacks: Sequence[str] = ()
    predicted: str = "pred_original_sample"
    loop: Callable[..., Any] | None = None

    @property
    def option_names(self) -> set[str]:
        """The options that have values here."""
        return {part for name in self.options for part in ((name,) if isinstance(name, str) else name)}

    @property
    def cases(self) -> list[Case]:
        """The covering array of options, runs, step arguments, batch sizes and starts."""
        return self._all_cases[0]

    @property
    def further_cases(self) -> list[Case]:
        """Random ones beside them."""
        return self._all_cases[1]

    @cached_property
    def few_cases(self) -> list[Case]:
        """Twelve of `cases` that hold every value where twelve can, and as many pairs of values as possible."""
        return [self.cases[i] for i in chosen_rows([case.values for case in self.cases], FEW)]

    @cached_property
    def _all_cases(self) -> tuple[list[Case], list[Case]]:
        factors = {
            **{("option", name): values for name, values in self.options.items()},
            **{("step", name): values for name, values in self.step.items()},
            ("run", ""): self.runs,
            ("batch", ""): (1, 3),
            ("begin", ""): self.begins or (0.0,),
        }
        rows, further = covering_rows(
            factors, keep=lambda row: self.keep(_case(row)), at_least=self.at_least, further=self.further
        )
        return [_case(row) for row in rows], [_case(row) for row in further]


def _case(row: Mapping[Any, Any]) -> Case:
    return Case(
        options=dict(pair for (kind, name), value in row.items() if kind == "option" for pair in _named(name, value)),
        set_timesteps=dict(row["run", ""]),
        step={name: value for (kind, name), value in row.items() if kind == "step"},
        batch=row["batch", ""],
        begin=row["begin", ""],
    )


def _named(name: str | tuple[str, ...], value: Any) -> list[tuple[str, Any]]:
    return [(name, value)] if isinstance(name, str) else list(zip(name, value, strict=True))


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) < 24 else f"{text[:20]}..."
