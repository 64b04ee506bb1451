"""What each unit costs by itself: images with only that one quantized."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffoundry.calibration.quality import mean_square
from diffoundry.calibration.stand_ins import EngineProxy, FixedEngines
from diffoundry.calibration.tasks import Case, Task
from diffoundry.calibration.units import Unit
from diffoundry.runtime.engines.protocol import Array, Engine

__all__ = ["SwitchedEngine", "Switching", "measure_alone", "refine"]

FloatArray = NDArray[np.float32]


class SwitchedEngine(EngineProxy):
    """An engine with an input for switches, which the pipeline does not see.

    Attributes:
        states: bool, one for each switch; what the next run uses.
    """

    def __init__(self, engine: Engine, switches: str) -> None:
        """Hide the input called `switches`."""
        super().__init__(engine)
        self._name = switches
        (count,) = next(spec.shape for spec in engine.inputs if spec.name == switches)
        self.inputs = tuple(spec for spec in engine.inputs if spec.name != switches)
        self.states = np.zeros(int(count), bool)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run with the switches as they are."""
        return self.inner.run({**feeds, self._name: self.states})


class Switching(Protocol):
    """Where sensitivity is measured."""

    def task_of(self, component: str, steps: int | None) -> Task:
        """The task that shows what a component does, in this many steps instead of its own."""

    def floats(self) -> FixedEngines:
        """All float engines."""

    def gated(
        self, component: str, units: Sequence[Unit]
    ) -> AbstractContextManager[tuple[SwitchedEngine, FixedEngines]]:
        """A component's engine with one switch for each of the units, alone and among the other float engines."""

    def chunks(self, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
        """Units of one component, in groups whose switches fit into memory together."""


def measure_alone(
    place: Switching,
    units: Sequence[Unit],
    cases: Sequence[Case],
    steps: int | None,
    tell: Callable[[str], None] = lambda _words: None,
) -> dict[Unit, float]:
    """The mean squared difference of the images of `cases` when one unit alone is quantized, for each unit.

    Args:
        place: Opens the engines.
        units: Of any components.
        cases: Few: every unit generates them all.
        steps: Steps of the denoising loop, or None for those of the task.
        tell: Told how far it is.
    """
    found: dict[Unit, float] = {}
    start = time.perf_counter()
    for component in dict.fromkeys(unit.component for unit in units):
        mine = [unit for unit in units if unit.component == component]
        task = place.task_of(component, steps)
        reference = task.generate(place.floats(), cases)
        for chunk in place.chunks(mine):
            with place.gated(component, chunk) as (engine, engines):
                for i, unit in enumerate(chunk):
                    engine.states[:] = False
                    engine.states[i] = True
                    found[unit] = float(mean_square(task.generate(engines, cases), reference).mean())
                    tell(_progress(len(found), len(units), time.perf_counter() - start))
    return {unit: found[unit] for unit in units}


def refine(
    place: Switching,
    costs: Mapping[Unit, float],
    top: Sequence[Unit],
    cases: Sequence[Case],
    tell: Callable[[str], None] = lambda _words: None,
) -> dict[Unit, float]:
    """Measure some units again over whole trajectories, and bring the others to their scale.

    Args:
        place: Opens the engines.
        costs: As measured in few steps.
        top: The units to measure again.
        cases: Prompts and settings to generate.
        tell: Told how far it is.
    """
    whole = measure_alone(place, top, cases, None, tell)
    ratios = [whole[unit] / costs[unit] for unit in top if costs[unit] > 0 and np.isfinite(costs[unit])]
    scale = statistics.median(ratios) if ratios else 1.0
    return {unit: whole.get(unit, cost * scale) for unit, cost in costs.items()}


def _progress(done: int, total: int, seconds: float) -> str:
    return (
        f"measured {done} of {total} layers alone, {seconds:.0f} s, about {seconds / done * (total - done):.0f} s left"
    )
