"""Quantizes as much as a budget allows: the fewest moves back to finer types that are good enough."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from diffoundry.calibration.quality import Budget, Quality
from diffoundry.calibration.tasks import Case
from diffoundry.calibration.units import Move, Plan, Unit, rank
from diffoundry.runtime.bundle.quantization import ComponentChoice
from diffoundry.runtime.errors import InputError

__all__ = ["Found", "Trials", "search"]

Choices = Mapping[str, ComponentChoice]

_FURTHER = 20
"""Where the held-out images want more than those that were searched with, this part of all moves is made at once."""


class Trials(Protocol):
    """Where choices are tried."""

    def quality(self, choices: Choices, cases: Sequence[Case]) -> Quality:
        """The images of cases with these choices, in the worst of all graph forms."""

    def size(self, choices: Choices) -> int:
        """Bytes of all graphs with these choices, in the largest of all graph forms."""

    def costs(self, units: Sequence[Unit]) -> dict[Unit, float]:
        """The mean squared difference that each unit causes by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search came to.

    Attributes:
        choices: Component to its choice.
        quality: Over the held-out cases.
        size: Bytes of all graphs.
    """

    choices: Choices
    quality: Quality
    size: int


def search(
    precision: str,
    plan: Plan,
    budget: Budget,
    trials: Trials,
    cases: Sequence[Case],
    held_out: Sequence[Case],
    tell: Callable[[str], None] = lambda _words: None,
) -> Found:
    """The choice that quantizes most within a budget.

    With everything quantized the held-out images may be good enough: then nothing has to be measured. Otherwise each
    unit is measured alone, the moves back to finer types are ranked by the error they take away for what they cost, and
    the shortest beginning of that list is looked for by bisection over `cases`; `held_out` has the last word.
    With a size alone, the longest beginning that fits is taken.

    Raises:
        InputError: The budget cannot be met; the message says what was reached.
    """
    walk = _Walk(precision, plan, budget, trials, held_out, tell)
    everything = walk.at([])
    if budget.max_size is not None and everything.size > budget.max_size:
        raise InputError(
            f"max-size: got {budget.max_size:,} bytes for {precision}, expected at least {everything.size:,}: that is "
            f"the size with everything quantized, with {everything.quality}; ask for more or for a smaller precision"
        )
    if budget.min_psnr is not None and budget.fits(everything.quality):
        return everything
    costs = trials.costs(plan.units)
    walk.plan = plan = replace(plan, costs=costs)
    moves = rank(costs)
    if budget.min_psnr is None:
        return walk.at(moves[: _longest(moves, plan, trials, budget)])
    return walk.on(moves, _shortest(moves, plan, trials, budget, cases, tell))


class _Walk:
    """Places in the list of moves, judged by the held-out images."""

    def __init__(
        self,
        precision: str,
        plan: Plan,
        budget: Budget,
        trials: Trials,
        held_out: Sequence[Case],
        tell: Callable[[str], None],
    ) -> None:
        self.plan = plan
        self._precision = precision
        self._budget = budget
        self._trials = trials
        self._held_out = held_out
        self._tell = tell

    def at(self, moves: Sequence[Move]) -> Found:
        """What these moves give."""
        choices = self.plan.choices(moves)
        found = Found(
            choices=choices, quality=self._trials.quality(choices, self._held_out), size=self._trials.size(choices)
        )
        self._tell(f"{self._precision}, {len(moves)} of all moves back: {found.quality}, {found.size:,} bytes")
        return found

    def on(self, moves: Sequence[Move], start: int) -> Found:
        """The first place from `start` on where the held-out images are good enough.

        Raises:
            InputError: There is none that leaves something quantized and fits the size.
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
            f"min-psnr: got a budget of {self._budget} for {self._precision}, expected one that leaves something to "
            f"quantize; reached {best.quality} with {best.size:,} bytes; ask for less or for a finer precision"
        )


def _longest(moves: Sequence[Move], plan: Plan, trials: Trials, budget: Budget) -> int:
    """How many moves fit into the size."""
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
    plan: Plan,
    trials: Trials,
    budget: Budget,
    cases: Sequence[Case],
    tell: Callable[[str], None],
) -> int:
    """How few moves are good enough for `cases`."""
    low, high = 0, len(moves)
    while low < high:
        middle = (low + high) // 2
        quality = trials.quality(plan.choices(moves[:middle]), cases)
        tell(f"{middle} of {len(moves)} moves back: {quality}")
        if budget.fits(quality):
            high = middle
        else:
            low = middle + 1
    return low
