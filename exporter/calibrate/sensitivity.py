"""Measures the error of each unit: images with only that unit quantized."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import mean_square
from diffoundry.calibration.units import Unit
from diffoundry.exporter.calibrate.engine_proxies import EngineProxy, FixedEngines
from diffoundry.exporter.calibrate.generation_tasks import ImageTask
from diffoundry.runtime.engines.protocol import Array, Engine

__all__ = ["EngineSource", "SwitchedEngine", "measure_alone", "refine"]

FloatArray = NDArray[np.float32]


class SwitchedEngine(EngineProxy):
    """Wraps an engine with an input for switches, and hides that input from the pipeline.

    Attributes:
        states: bool, one for each switch; used by the next run.
    """

    def __init__(self, engine: Engine, switches: str) -> None:
        """Hide the input called `switches`."""
        super().__init__(engine)
        self._name = switches
        (count,) = next(spec.shape for spec in engine.inputs if spec.name == switches)
        self.inputs = tuple(spec for spec in engine.inputs if spec.name != switches)
        self.states = np.zeros(int(count), bool)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run with the current switches."""
        return self.inner.run({**feeds, self._name: self.states})


class EngineSource(Protocol):
    """Opens the engines for a sensitivity measurement."""

    def task_for(self, component: str, steps: int | None) -> ImageTask:
        """Find the task that runs a component, with at most `steps` denoising steps if given."""

    def floats(self) -> FixedEngines:
        """Session over all float engines."""

    def open_switched(
        self, component: str, units: Sequence[Unit]
    ) -> AbstractContextManager[tuple[SwitchedEngine, FixedEngines]]:
        """Open a component's engine with one switch per unit, and a session that combines it with the float engines."""

    def chunks(self, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
        """Split units of one component into groups whose switches fit into memory together."""


def measure_alone(
    source: EngineSource,
    units: Sequence[Unit],
    prompts: Sequence[SeededPrompt],
    steps: int | None,
    progress: Callable[[str], None] = lambda _message: None,
) -> dict[Unit, float]:
    """Mean squared difference of the images of `prompts` when one unit alone is quantized, for each unit.

    Args:
        source: Opens the engines.
        units: Units of any components.
        prompts: Few prompts, because every unit generates them all.
        steps: Denoising steps, or None for those of the task.
        progress: Called with a message about the progress.
    """
    found: dict[Unit, float] = {}
    start = time.perf_counter()
    for component in dict.fromkeys(unit.component for unit in units):
        mine = [unit for unit in units if unit.component == component]
        task = source.task_for(component, steps)
        reference = task.generate(source.floats(), prompts)
        for chunk in source.chunks(mine):
            with source.open_switched(component, chunk) as (engine, engines):
                for i, unit in enumerate(chunk):
                    engine.states[:] = False
                    engine.states[i] = True
                    found[unit] = float(mean_square(task.generate(engines, prompts), reference).mean())
                    progress(_progress_message(len(found), len(units), time.perf_counter() - start))
    return {unit: found[unit] for unit in units}


def refine(
    source: EngineSource,
    errors: Mapping[Unit, float],
    top: Sequence[Unit],
    prompts: Sequence[SeededPrompt],
    progress: Callable[[str], None] = lambda _message: None,
) -> dict[Unit, float]:
    """Measure some units again in all steps, and scale the errors of the others accordingly.

    Args:
        source: Opens the engines.
        errors: Errors measured in few steps.
        top: Units to measure again.
        prompts: Prompts to generate.
        progress: Called with a message about the progress.
    """
    whole = measure_alone(source, top, prompts, None, progress)
    ratios = [whole[unit] / errors[unit] for unit in top if errors[unit] > 0 and np.isfinite(errors[unit])]
    scale = statistics.median(ratios) if ratios else 1.0
    return {unit: whole.get(unit, error * scale) for unit, error in errors.items()}


def _progress_message(done: int, total: int, seconds: float) -> str:
    return (
        f"measured {done} of {total} layers alone, {seconds:.0f} s, about {seconds / done * (total - done):.0f} s left"
    )
