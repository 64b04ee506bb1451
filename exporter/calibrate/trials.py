"""Evaluates choices of a precision on the images of a bundle, in every graph format that its targets want."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import Quality, judge
from diffoundry.calibration.units import Unit
from diffoundry.exporter.calibrate.engine_proxies import FixedEngines
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.generation_tasks import ImageTask
from diffoundry.exporter.calibrate.sensitivity import MeasureAlone, SwitchedEngine, measure_alone, refine
from diffoundry.exporter.passes.quantization_switches import SWITCHES
from diffoundry.runtime.bundle.quantization import ComponentChoice

__all__ = ["CandidateGraphs", "ImageTrials", "MakeGraphs", "SensitivitySettings", "Spread"]

Choices = Mapping[str, ComponentChoice]

_SWITCHED_BYTES = 512 << 20
"""Most bytes of float weights in a graph with switches, where each exists twice."""

_SWITCHED_UNITS = 32
"""Most switches in a graph: each one costs a little time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivitySettings:
    """Settings of the sensitivity measurement.

    Attributes:
        prompts: Prompts generated for each unit.
        steps: Denoising steps.
        top: Number of the units with the largest error that are measured again in all steps.
    """

    prompts: Sequence[SeededPrompt]
    steps: int = 6
    top: int = 8


class CandidateGraphs(Protocol):
    """Builds the graphs of one precision for a simulation."""

    @property
    def format_count(self) -> int:
        """Number of different graph formats."""

    def graph(self, component: str, choice: ComponentChoice, index: int) -> ir.Model:
        """Build a component's graph with a choice, in the format at an index."""

    def switched(self, component: str, units: Sequence[Unit], index: int) -> ir.Model:
        """Build a component's graph with a switch for each unit."""

    def size(self, component: str, choice: ComponentChoice, index: int) -> int:
        """Bytes of a component's weights."""

    def weight_bytes(self, unit: Unit) -> int:
        """Bytes of the float weights of a unit."""


MakeGraphs = Callable[[Callable[[str], ir.Model], Sequence[str]], CandidateGraphs]
"""Makes the candidate graphs, from a function that loads a component's graph, and the names of the components."""

Spread = Callable[[Sequence[SeededPrompt]], AbstractContextManager[MeasureAlone]]
"""Opens workers that measure units alone with these prompts."""


class ImageTrials:
    """Implements `calibration.search.Trials` and `sensitivity.EngineSource`."""

    def __init__(
        self,
        reference: FloatReference,
        graphs: CandidateGraphs,
        settings: SensitivitySettings,
        progress: Callable[[str], None],
        spread: Spread | None = None,
    ) -> None:
        """Store the arguments.

        Args:
            reference: The float pipeline.
            graphs: Graphs of one precision.
            settings: Of the sensitivity measurement.
            progress: Called with a message about the progress.
            spread: Opens workers for the sensitivity measurement; None measures in this process.
        """
        self._spread = spread
        self._reference = reference
        self._graphs = graphs
        self._settings = settings
        self._progress = progress
        self._worst = 0

    def quality(self, choices: Choices, prompts: Sequence[SeededPrompt]) -> Quality:
        """See `Trials.quality`."""
        found = []
        for index in range(self._graphs.format_count):
            with self._opened(choices, index) as engines:
                found += [(judge(errors), index) for errors in self._reference.errors(engines, prompts)]
        worst, self._worst = min(found, key=lambda pair: (pair[0].mean, pair[1]))
        return Quality(mean=worst.mean, worst=min(quality.worst for quality, _ in found))

    def size(self, choices: Choices) -> int:
        """See `Trials.size`."""
        return max(
            sum(self._graphs.size(name, choice, index) for name, choice in choices.items())
            for index in range(self._graphs.format_count)
        )

    def unit_errors(self, units: Sequence[Unit]) -> dict[Unit, float]:
        """See `Trials.unit_errors`; uses the worst format so far, few steps, and all steps for the largest errors."""
        settings = self._settings
        with self._spread(settings.prompts) if self._spread else nullcontext() as measure:
            errors = measure_alone(self, units, settings.prompts, settings.steps, self._progress, measure)
            top = sorted(units, key=lambda unit: -errors[unit])[: settings.top]
            return refine(self, errors, top, settings.prompts, self._progress, measure)

    @property
    def form(self) -> int:
        """See `EngineSource.form`: the worst format so far."""
        return self._worst

    def task_for(self, component: str, steps: int | None) -> ImageTask:
        """See `EngineSource.task_for`."""
        return self._reference.task_for(component, steps)

    def floats(self) -> FixedEngines:
        """See `EngineSource.floats`."""
        return self._reference.floats()

    @contextmanager
    def open_switched(
        self, component: str, units: Sequence[Unit], form: int
    ) -> Iterator[tuple[SwitchedEngine, FixedEngines]]:
        """See `EngineSource.open_switched`."""
        model = self._graphs.switched(component, units, form)
        with SwitchedEngine(self._reference.open(component, model, "switched"), SWITCHES) as engine:
            yield engine, self._reference.floats({component: engine})

    def chunks(self, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
        """See `EngineSource.chunks`."""
        chunk: list[Unit] = []
        used = 0
        for unit in units:
            size = self._graphs.weight_bytes(unit)
            if chunk and (used + size > _SWITCHED_BYTES or len(chunk) == _SWITCHED_UNITS):
                yield chunk
                chunk, used = [], 0
            chunk.append(unit)
            used += size
        if chunk:
            yield chunk

    @contextmanager
    def _opened(self, choices: Choices, index: int) -> Iterator[FixedEngines]:
        with ExitStack() as stack:
            changed = {}
            for name, choice in choices.items():
                model = self._graphs.graph(name, choice, index)
                engine = self._reference.open(name, model, "trial")
                stack.callback(engine.close)
                changed[name] = engine
            yield self._reference.floats(changed)
