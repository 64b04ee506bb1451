"""Tries choices of a precision on the images of a bundle, in every graph form that its targets want."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from diffoundry.calibration.quality import Quality, judge
from diffoundry.calibration.sensitivity import SwitchedEngine, measure_alone, refine
from diffoundry.calibration.stand_ins import FixedEngines
from diffoundry.calibration.tasks import Case, Task
from diffoundry.calibration.units import Unit
from diffoundry.exporter.calibrate.reference import FloatReference
from diffoundry.exporter.passes.quantization_switches import SWITCHES
from diffoundry.runtime.bundle.quantization import ComponentChoice

__all__ = ["CandidateGraphs", "ImageTrials", "SensitivitySettings"]

Choices = Mapping[str, ComponentChoice]

_SWITCHED_BYTES = 512 << 20
"""Float weights that stand in a graph twice at the same time, behind switches."""

_SWITCHED_UNITS = 32
"""Switches to a graph: each costs a little whatever its state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivitySettings:
    """How sensitivity is measured.

    Attributes:
        cases: What is generated for each unit.
        steps: In how many steps.
        top: How many of the costliest units are measured again in all steps.
    """

    cases: Sequence[Case]
    steps: int = 6
    top: int = 8


class CandidateGraphs(Protocol):
    """Makes the graphs of one precision for a simulation."""

    @property
    def forms(self) -> int:
        """How many different ones there are of a component."""

    def graph(self, component: str, choice: ComponentChoice, form: int) -> ir.Model:
        """A component with a choice, in one of the forms."""

    def switched(self, component: str, units: Sequence[Unit], form: int) -> ir.Model:
        """A component with a switch for each unit."""

    def size(self, component: str, choice: ComponentChoice, form: int) -> int:
        """Bytes of its weights."""

    def weight_bytes(self, unit: Unit) -> int:
        """Bytes of the float weights of a unit."""


class ImageTrials:
    """Implements `calibration.search.Trials` and `calibration.sensitivity.Switching`."""

    def __init__(
        self, studio: FloatReference, maker: CandidateGraphs, probe: SensitivitySettings, tell: Callable[[str], None]
    ) -> None:
        self._studio = studio
        self._maker = maker
        self._probe = probe
        self._tell = tell
        self._worst = 0

    def quality(self, choices: Choices, cases: Sequence[Case]) -> Quality:
        """See `Trials.quality`."""
        found = []
        for form in range(self._maker.forms):
            with self._opened(choices, form) as engines:
                found += [(judge(errors), form) for errors in self._studio.errors(engines, cases)]
        worst, self._worst = min(found, key=lambda pair: (pair[0].mean, pair[1]))
        return Quality(mean=worst.mean, worst=min(quality.worst for quality, _ in found))

    def size(self, choices: Choices) -> int:
        """See `Trials.size`."""
        return max(
            sum(self._maker.size(name, choice, form) for name, choice in choices.items())
            for form in range(self._maker.forms)
        )

    def costs(self, units: Sequence[Unit]) -> dict[Unit, float]:
        """See `Trials.costs`: in the form that was worst so far, in few steps and the costliest again in all."""
        probe = self._probe
        costs = measure_alone(self, units, probe.cases, probe.steps, self._tell)
        top = sorted(units, key=lambda unit: -costs[unit])[: probe.top]
        return refine(self, costs, top, probe.cases, self._tell)

    def task_of(self, component: str, steps: int | None) -> Task:
        """See `Switching.task_of`."""
        return self._studio.task_of(component, steps)

    def floats(self) -> FixedEngines:
        """See `Switching.floats`."""
        return self._studio.floats()

    @contextmanager
    def gated(self, component: str, units: Sequence[Unit]) -> Iterator[tuple[SwitchedEngine, FixedEngines]]:
        """See `Switching.gated`."""
        model = self._maker.switched(component, units, self._worst)
        with SwitchedEngine(self._studio.open(component, model, "switched"), SWITCHES) as engine:
            yield engine, self._studio.floats({component: engine})

    def chunks(self, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
        """See `Switching.chunks`."""
        chunk: list[Unit] = []
        used = 0
        for unit in units:
            size = self._maker.weight_bytes(unit)
            if chunk and (used + size > _SWITCHED_BYTES or len(chunk) == _SWITCHED_UNITS):
                yield chunk
                chunk, used = [], 0
            chunk.append(unit)
            used += size
        if chunk:
            yield chunk

    @contextmanager
    def _opened(self, choices: Choices, form: int) -> Iterator[FixedEngines]:
        with ExitStack() as stack:
            changed = {}
            for name, choice in choices.items():
                model = self._maker.graph(name, choice, form)
                engine = self._studio.open(name, model, "trial")
                stack.callback(engine.close)
                changed[name] = engine
            yield self._studio.floats(changed)
