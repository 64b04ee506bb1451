"""A network that was cut into several graphs, as one engine."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from diffoundry.runtime.bundle.specs import EnginePart, EngineSpec
from diffoundry.runtime.engines.body_cache import Body, current_body_cache
from diffoundry.runtime.engines.part_names import CONDITIONING, HEAD, PRELUDE, SKIPPED
from diffoundry.runtime.engines.protocol import AdaptableEngine, AdapterWeights, Array, Closeable, Engine, run_checked
from diffoundry.runtime.engines.run_memory import current_memory

__all__ = ["PartitionedEngine"]

_REMEMBERED = (CONDITIONING, PRELUDE)

OpenPart = Callable[[EngineSpec, AdapterWeights | None], Engine]
"""Opens the engine of one part, with adapters or without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A part and its engine."""

    spec: EnginePart
    engine: Engine


class PartitionedEngine(Closeable):
    """The engines of the parts of a network, run one after another. An `AdaptableEngine`.

    Conditioning and prelude change with the call or the timestep alone. Within a run of a pipeline, they run once for
    each of their inputs; the `RunMemory` of the run keeps their results. The body of a split network is left out where
    the `BodyCache` of the loop says so. Nothing is kept here, so several threads and runs may share it.
    """

    def __init__(
        self, spec: EngineSpec, component: str, open_part: OpenPart, adapters: Mapping[str, Array], root: Path
    ) -> None:
        """Open the engines of all parts.

        Args:
            spec: Engine of the whole network, with at least one part.
            component: Name of the network, for messages.
            open_part: Opens the engine of a part.
            adapters: As in `AdapterWeights`; empty for none.
            root: Folder of the bundle.

        Raises:
            EngineError: A part cannot be opened.
        """
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self.idle_inputs = frozenset(() if spec.idle is None else spec.idle.inputs)
        self._component, self._root = component, root
        parts: list[_Part] = []
        try:
            for part in spec.parts:
                engine = open_part(spec.of_part(part), self._weights(part, adapters))
                parts.append(_Part(spec=part, engine=engine))
        except BaseException:
            for opened in parts:
                opened.engine.close()
            raise
        self._parts: Sequence[_Part] = parts
        self._adapting = threading.Lock()
        self._state = object()

    def _weights(self, part: EnginePart, arrays: Mapping[str, Array]) -> AdapterWeights | None:
        """Return the adapters of the layers of a part; None for none."""
        if part.adapters is None:
            return None
        layers = part.adapters.layers.keys()
        mine = {name: array for name, array in arrays.items() if name.rpartition(".")[0] in layers}
        return AdapterWeights(graph=self._root / part.adapters.files[0], arrays=mine) if mine else None

    def set_adapters(self, adapters: AdapterWeights | None) -> None:
        """See `AdaptableEngine.set_adapters`; what a run remembers of the layers before is not used again."""
        arrays = {} if adapters is None else adapters.arrays
        with self._adapting:
            self._state = object()
            for part in self._parts:
                if part.spec.adapters is not None:
                    cast("AdaptableEngine", part.engine).set_adapters(self._weights(part.spec, arrays))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the parts; see `Engine.run`.

        Raises:
            EngineError: A part failed, or hands over other values than its reader takes.
        """
        while True:
            with self._adapting:
                state = self._state
            values = self._run_parts(state, feeds)
            if self._state is state:  # else some parts may have had the old adapters, and some the new
                return {tensor.name: values[tensor.name] for tensor in self.outputs}

    def _run_parts(self, state: object, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the parts and return all values; `state` identifies the weights."""
        memory, cache, values = current_memory(), current_body_cache(), dict(feeds)
        for part in self._parts:
            left_out = self.idle_inputs.difference(feeds)
            mine = {one.name: values[one.name] for one in part.spec.inputs if one.name not in left_out}
            if part.spec.name in SKIPPED and cache is not None:
                values |= cache.results(self._body(state, part, mine, feeds, values, compares=cache.compares))
            elif memory is None or part.spec.name not in _REMEMBERED:
                values |= self._run_part(part, mine)
            else:
                key, shapes = (self, part.spec.name), part.spec.shape_inputs
                values |= memory.recall(key, state, mine, shapes, partial(self._run_part, part))
        return values

    def _body(
        self,
        state: object,
        part: _Part,
        mine: Mapping[str, Array],
        feeds: Mapping[str, Array],
        values: Mapping[str, Array],
        *,
        compares: bool,
    ) -> Body:
        """Describe a call of the inner part: its own inputs, those of the network, and all values so far."""
        head = next((one.spec.residuals for one in self._parts if one.spec.name == HEAD and compares), {})
        return Body(
            weights=state,
            feeds={tensor.name: feeds[tensor.name] for tensor in self.inputs if tensor.name in feeds},
            change=next((values[after] - values[before] for after, before in head.items()), None),
            results=[tensor.name for tensor in part.spec.outputs],
            base=next((values[name] for name in part.spec.residuals.values()), None),
            run=partial(self._run_part, part, mine),
        )

    def _run_part(self, part: _Part, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return run_checked(part.engine, feeds, f"{self._component}, part {part.spec.name}")

    def close(self) -> None:
        """Close the engines of all parts."""
        for part in self._parts:
            part.engine.close()
