"""Measures the error of each unit: images with only that unit quantized."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import mean_square
from diffoundry.calibration.units import Unit
from diffoundry.exporter.calibrate.engine_proxies import EngineProxy, FixedEngines
from diffoundry.exporter.calibrate.generation_tasks import ImageTask
from diffoundry.runtime.engines.protocol import Array, Closeable, Engine

__all__ = ["Alone", "AloneMeter", "EngineSource", "MeasureAlone", "SwitchedEngine", "measure_alone", "refine"]

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
    """Opens the engines for a sensitivity measurement.

    Attributes:
        form: Index of the graph format that is measured.
    """

    @property
    def form(self) -> int:
        """See the class."""

    def task_for(self, component: str, steps: int | None) -> ImageTask:
        """Find the task that runs a component, with at most `steps` denoising steps if given."""

    def floats(self) -> FixedEngines:
        """Session over all float engines."""

    def open_switched(
        self, component: str, units: Sequence[Unit], form: int
    ) -> AbstractContextManager[tuple[SwitchedEngine, FixedEngines]]:
        """Open a component's engine with one switch per unit, and a session that combines it with the float engines."""

    def chunks(self, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
        """Split units of one component into groups whose switches fit into memory together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alone:
    """One unit that is measured alone. Can be pickled.

    Attributes:
        component: Component of the unit.
        chunk: Units that share a graph with switches.
        index: Index of the unit in `chunk`.
        form: As `EngineSource.form`.
        steps: Denoising steps, or None for those of the task.
    """

    component: str
    chunk: tuple[Unit, ...]
    index: int
    form: int
    steps: int | None


MeasureAlone = Callable[[Sequence[Alone]], Iterator[tuple[int, float]]]
"""Measures units alone: yields the index of each, in any order, and the mean squared difference of its images."""


class AloneMeter(Closeable):
    """Measures units alone. The graph with switches of the last one stays open for the next."""

    def __init__(self, source: EngineSource, prompts: Sequence[SeededPrompt]) -> None:
        """Store the arguments. Nothing is opened yet.

        Args:
            source: Opens the engines.
            prompts: Few prompts, because every unit generates them all.
        """
        self._source, self._prompts = source, prompts
        self._task: tuple[str, int | None] | None = None
        self._graph: tuple[str, tuple[Unit, ...], int] | None = None
        self._opened = ExitStack()

    def __call__(self, one: Alone) -> float:
        """Return the mean squared difference of the images of the prompts with this unit alone quantized."""
        if self._task != (one.component, one.steps):
            self.close()
            self._task = one.component, one.steps
            self._images = self._source.task_for(*self._task).generate(self._source.floats(), self._prompts)
        if self._graph != (one.component, one.chunk, one.form):
            self._opened.close()
            self._graph = one.component, one.chunk, one.form
            self._switched, self._engines = self._opened.enter_context(self._source.open_switched(*self._graph))
        self._switched.states[:] = False
        self._switched.states[one.index] = True
        task = self._source.task_for(one.component, one.steps)
        return float(mean_square(task.generate(self._engines, self._prompts), self._images).mean())

    def close(self) -> None:
        """Close the graph."""
        self._opened.close()
        self._task = self._graph = None


def measure_alone(
    source: EngineSource,
    units: Sequence[Unit],
    prompts: Sequence[SeededPrompt],
    steps: int | None,
    progress: Callable[[str], None] = lambda _message: None,
    measure: MeasureAlone | None = None,
) -> dict[Unit, float]:
    """Mean squared difference of the images of `prompts` when one unit alone is quantized, for each unit.

    Args:
        source: Opens the engines.
        units: Units of any components.
        prompts: Few prompts, because every unit generates them all.
        steps: Denoising steps, or None for those of the task.
        progress: Called with a message about the progress.
        measure: Measures them elsewhere, with the same prompts; None measures here.
    """
    wanted = [
        Alone(component=component, chunk=tuple(chunk), index=index, form=source.form, steps=steps)
        for component in dict.fromkeys(unit.component for unit in units)
        for chunk in source.chunks([unit for unit in units if unit.component == component])
        for index in range(len(chunk))
    ]
    found: dict[Unit, float] = {}
    start = time.perf_counter()
    with AloneMeter(source, prompts) as meter:
        for number, error in measure(wanted) if measure else enumerate(map(meter, wanted)):
            found[wanted[number].chunk[wanted[number].index]] = error
            progress(_progress_message(len(found), len(units), time.perf_counter() - start))
    return {unit: found[unit] for unit in units}


def refine(
    source: EngineSource,
    errors: Mapping[Unit, float],
    top: Sequence[Unit],
    prompts: Sequence[SeededPrompt],
    progress: Callable[[str], None] = lambda _message: None,
    measure: MeasureAlone | None = None,
) -> dict[Unit, float]:
    """Measure some units again in all steps, and scale the errors of the others accordingly.

    Args:
        source: Opens the engines.
        errors: Errors measured in few steps.
        top: Units to measure again.
        prompts: Prompts to generate.
        progress: Called with a message about the progress.
        measure: As in `measure_alone`.
    """
    whole = measure_alone(source, top, prompts, None, progress, measure)
    ratios = [whole[unit] / errors[unit] for unit in top if errors[unit] > 0 and np.isfinite(errors[unit])]
    scale = statistics.median(ratios) if ratios else 1.0
    return {unit: whole.get(unit, error * scale) for unit, error in errors.items()}


def _progress_message(done: int, total: int, seconds: float) -> str:
    return (
        f"measured {done} of {total} layers alone, {seconds:.0f} s, about {seconds / done * (total - done):.0f} s left"
    )
