"""Chooses the options of a precision that concern all layers: the observer and smoothing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from diffoundry.calibration.observers import OBSERVERS
from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import Quality
from diffoundry.calibration.search import Trials
from diffoundry.calibration.units import QuantizationPlan
from diffoundry.runtime.bundle.quantization import ComponentChoice

__all__ = ["choose_options"]

_STRENGTH = 0.5
"""Migration strength that the paper recommends."""

_LEAST_GAIN = 0.5
"""Gain in dB that smoothing must reach to be used: less is within the noise of a handful of images."""


def choose_options(
    plan: QuantizationPlan,
    trials: Trials,
    prompts: Sequence[SeededPrompt],
    smoothable: Mapping[str, Collection[str]],
    progress: Callable[[str], None] = lambda _message: None,
) -> QuantizationPlan:
    """Choose the observer with the best images when everything is quantized, and smoothing if it pays.

    Args:
        plan: Plan whose base is completed.
        trials: Evaluates each candidate.
        prompts: Prompts generated for each trial.
        smoothable: Component to the nodes that can be smoothed.
        progress: Called with a message after each trial.
    """

    def attempt(words: str, candidate: QuantizationPlan) -> Quality:
        quality = trials.quality(candidate.choices(), prompts)
        progress(f"{words}: {quality}")
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


def _with(plan: QuantizationPlan, changes: Mapping[str, Mapping[str, object]]) -> QuantizationPlan:
    base: dict[str, ComponentChoice] = {
        name: replace(choice, **changes.get(name, {}))  # type: ignore[arg-type]  # fields of ComponentChoice
        for name, choice in plan.base.items()
    }
    return replace(plan, base=base)
