"""Quantizes as much as a budget allows: finds the fewest layers to move back to finer types."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import Budget, Quality
from diffoundry.calibration.units import Move, QuantizationPlan, Unit, rank
from diffoundry.runtime.bundle.quantization import ComponentChoice
from diffoundry.runtime.errors import InputError

__all__ = ["SearchResult", "Trials", "search"]

Choices = Mapping[str, ComponentChoice]

_FURTHER = 20
"""Fraction of all moves added at a time when held-out images need more moves than the searched ones: 1/20."""


class Trials(Protocol):
    """Evaluates choices on images."""

    def quality(self, choices: Choices, prompts: Sequence[SeededPrompt]) -> Quality:
        """Quality of the images of prompts with these choices, in the worst of all graph formats."""

    def size(self, choices: Choices) -> int:
        """Bytes of all graphs with these choices, in the largest of all graph formats."""

    def unit_errors(self, units: Sequence[Unit]) -> dict[Unit, float]:
        """Mean squared difference that each unit causes when it alone is quantized."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """Result of a search.

    Attributes:
        choices: Component to its choice.
        quality: Quality over the held-out prompts.
        size: Bytes of all graphs.
    """

    choices: Choices
    quality: Quality
    size: int


def search(
    precision: str,
    plan: QuantizationPlan,
    budget: Budget,
    trials: Trials,
    prompts: Sequence[SeededPrompt],
    held_out: Sequence[SeededPrompt],
    progress: Callable[[str], None] = lambda _message: None,
) -> SearchResult:
    """Find the choice that quantizes most within a budget.

    With everything quantized the held-out images may already be good enough. Then nothing is measured. Otherwise each
    unit is measured alone, and the moves back to finer types are ranked by error reduction per cost. Bisection over
    `prompts` finds the shortest prefix of that list that is good enough. `held_out` may lengthen it. With a size limit
    alone, the longest prefix that fits is used.

    Raises:
        InputError: The budget cannot be met; the message gives the best result.
    """
    held_out_trials = _HeldOutTrials(precision, plan, budget, trials, held_out, progress)
    everything = held_out_trials.at([])
    if budget.max_size is not None and everything.size > budget.max_size:
        raise InputError(
            f"--max-size: got {budget.max_size:,} bytes for {precision}, expected at least {everything.size:,}: that "
            f"is the size with everything quantized, with {everything.quality}; ask for more or for a smaller precision"
        )
    if budget.min_psnr is not None and budget.fits(everything.quality):
        return everything
    errors = trials.unit_errors(plan.units)
    held_out_trials.plan = plan = replace(plan, errors=errors)
    moves = rank(errors)
    if budget.min_psnr is None:
        return held_out_trials.at(moves[: _longest(moves, plan, trials, budget)])
    return held_out_trials.on(moves, _shortest(moves, plan, trials, budget, prompts, progress))


class _HeldOutTrials:
    """Evaluates prefixes of the list of moves on the held-out images."""

    def __init__(
        self,
        precision: str,
        plan: QuantizationPlan,
        budget: Budget,
        trials: Trials,
        held_out: Sequence[SeededPrompt],
        progress: Callable[[str], None],
    ) -> None:
        self.plan = plan
        self._precision = precision
        self._budget = budget
        self._trials = trials
        self._held_out = held_out
        self._progress = progress

    def at(self, moves: Sequence[Move]) -> SearchResult:
        """Evaluate these moves."""
        choices = self.plan.choices(moves)
        found = SearchResult(
            choices=choices, quality=self._trials.quality(choices, self._held_out), size=self._trials.size(choices)
        )
        self._progress(f"{self._precision}, {len(moves)} of all moves back: {found.quality}, {found.size:,} bytes")
        return found

    def on(self, moves: Sequence[Move], start: int) -> SearchResult:
        """Find the first prefix, of at least `start` moves, whose held-out images are good enough.

        Raises:
            InputError: No prefix leaves something quantized and fits the size.
        """
        best = self.at(moves[: min(start, len(moves) - 1)])
        step = max(len(moves) // _FURTHER, 1)
        for count in range(start, len(moves), step):
            found = best if count == start else self.at(moves[:count])
            if self._budget.max_size is not None and found.size > self._budget.max_size:
                break
            best = found
            if self._budget.fits(found.quality):
                return found
        raise InputError(
            f"--min-psnr: got a budget of {self._budget} for {self._precision}, expected one that leaves something to "
            f"quantize; reached {best.quality} with {best.size:,} bytes; ask for less or for a finer precision"
        )


def _longest(moves: Sequence[Move], plan: QuantizationPlan, trials: Trials, budget: Budget) -> int:
    """Count the moves that fit into the size."""
    low, high = 0, len(moves)
    while low < high:
        middle = (low + high + 1) // 2
        if budget.max_size is not None and trials.size(plan.choices(moves[:middle])) > budget.max_size:
            high = middle - 1
        else:
            low = middle
    return low


def _shortest(
    moves: Sequence[Move],
    plan: QuantizationPlan,
    trials: Trials,
    budget: Budget,
    prompts: Sequence[SeededPrompt],
    progress: Callable[[str], None],
) -> int:
    """Count the fewest moves that are good enough for `prompts`."""
    low, high = 0, len(moves)
    while low < high:
        middle = (low + high) // 2
        quality = trials.quality(plan.choices(moves[:middle]), prompts)
        progress(f"{middle} of {len(moves)} moves back: {quality}")
        if budget.fits(quality):
            high = middle
        else:
            low = middle + 1
    return low
