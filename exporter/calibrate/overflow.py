"""Finds the nodes of a bundle whose values come near the largest number of fp16."""

from collections.abc import Mapping, Sequence

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.exporter.calibrate.engine_proxies import EngineProxy
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.passes.add_range_outputs import PEAK, AddRangeOutputs
from diffoundry.runtime.engines.protocol import Array, Engine

__all__ = ["find_overflows"]

_LARGEST = 65504.0

_ROOM = 2.0
"""Margin, because other prompts reach larger values than the measured ones."""


def find_overflows(reference: FloatReference, prompts: Sequence[SeededPrompt]) -> dict[str, tuple[str, ...]]:
    """Map components to the nodes that read, write or hold more than half of fp16's largest number."""
    engines: dict[str, _PeakEngine] = {}
    try:
        for component in reference.components:
            model = reference.graph(component)
            AddRangeOutputs()(model)
            engines[component] = _PeakEngine(reference.open(component, model, "peaks"))
        reference.errors(reference.floats(engines), prompts)
    finally:
        for engine in engines.values():
            engine.close()
    return {
        component: tuple(name for name, peak in engine.peaks.items() if not peak * _ROOM <= _LARGEST)
        for component, engine in engines.items()
    }


class _PeakEngine(EngineProxy):
    """Removes the peaks from an engine's outputs, and keeps the largest of each."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.outputs = tuple(spec for spec in engine.outputs if not spec.name.startswith(PEAK))
        self.peaks: dict[str, float] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run, and record the peaks."""
        outputs = self.inner.run(feeds)
        for name in [name for name in outputs if name.startswith(PEAK)]:
            node, peak = name.removeprefix(PEAK), float(outputs.pop(name))
            self.peaks[node] = max(self.peaks.get(node, 0.0), peak)
        return outputs
