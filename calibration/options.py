"""Options of a precision that are not matters of layers: which observer, and whether smoothing pays."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from diffoundry.calibration.observers import OBSERVERS
from diffoundry.calibration.quality import Quality
from diffoundry.calibration.search import Trials
from diffoundry.calibration.tasks import Case
from diffoundry.calibration.units import Plan
from diffoundry.runtime.bundle.quantization import ComponentChoice

__all__ = ["choose_options"]

_STRENGTH = 0.5
"""Migration strength that the paper recommends."""

_LEAST_GAIN = 0.5
"""dB that smoothing must bring to be used: less is within the noise of a handful of images."""


def choose_options(
    plan: Plan,
    trials: Trials,
    cases: Sequence[Case],
    smoothable: Mapping[str, Collection[str]],
    tell: Callable[[str], None] = lambda _words: None,
) -> Plan:
    """The plan with the observer whose images are best with everything quantized, and with smoothing if that pays.

    Args:
        plan: Plan whose base is completed.
        trials: Evaluates each candidate.
        cases: Prompts and settings generated for each trial.
        smoothable: Component to the nodes that can be smoothed.
        tell: Told what came of each try.
    """

    def attempt(words: str, candidate: Plan) -> Quality:
        quality = trials.quality(candidate.choices(), cases)
        tell(f"{words}: {quality}")
        return quality

    tried = [(name, _with(plan, {part: {"observer": name} for part in plan.base})) for name in OBSERVERS]
    qualities = [(attempt(f"observer {name}", candidate), candidate) for name, candidate in tried]
    best, chosen = max(qualities, key=lambda pair: pair[0].mean)  # the first of equals
    strengths = {part: {"smooth": dict.fromkeys(nodes, _STRENGTH)} for part, nodes in smoothable.items() if nodes}
    if strengths:
        smoothed = _with(chosen, strengths)
        if attempt("smoothed", smoothed).mean >= best.mean + _LEAST_GAIN:
            chosen = smoothed
    return chosen


def _with(plan: Plan, changes: Mapping[str, Mapping[str, object]]) -> Plan:
    base: dict[str, ComponentChoice] = {
        name: replace(choice, **changes.get(name, {}))  # type: ignore[arg-type]  # fields of ComponentChoice
        for name, choice in plan.base.items()
    }
    return replace(plan, base=base)
