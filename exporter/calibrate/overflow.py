"""Finds the nodes of a bundle that fp16 has not the range for."""

from collections.abc import Mapping, Sequence

from diffoundry.calibration.stand_ins import EngineProxy
from diffoundry.calibration.tasks import Case
from diffoundry.exporter.calibrate.reference import FloatReference
from diffoundry.exporter.passes.add_range_outputs import PEAK, AddRangeOutputs
from diffoundry.runtime.engines.protocol import Array, Engine

__all__ = ["find_overflows"]

_LARGEST = 65504.0

_ROOM = 2.0
"""Other prompts reach further than those that were looked at."""


def find_overflows(studio: FloatReference, cases: Sequence[Case]) -> dict[str, tuple[str, ...]]:
    """Component to the nodes that read, make or hold inside more than half of what fp16 can, while generation."""
    engines: dict[str, _PeakEngine] = {}
    try:
        for component in studio.components:
            model = studio.graph(component)
            AddRangeOutputs()(model)
            engines[component] = _PeakEngine(studio.open(component, model, "peaks"))
        studio.errors(studio.floats(engines), cases)
    finally:
        for engine in engines.values():
            engine.close()
    return {
        component: tuple(name for name, peak in engine.peaks.items() if not peak * _ROOM <= _LARGEST)
        for component, engine in engines.items()
    }


class _PeakEngine(EngineProxy):
    """Takes the peaks out of what an engine gives, and keeps the largest of each."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.outputs = tuple(spec for spec in engine.outputs if not spec.name.startswith(PEAK))
        self.peaks: dict[str, float] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run, and look at the peaks."""
        outputs = self.inner.run(feeds)
        for name in [name for name in outputs if name.startswith(PEAK)]:
            node, peak = name.removeprefix(PEAK), float(outputs.pop(name))
            self.peaks[node] = max(self.peaks.get(node, 0.0), peak)
        return outputs
