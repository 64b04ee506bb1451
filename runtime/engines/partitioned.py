"""A network that was cut into several graphs, as one engine."""

import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from diffoundry.runtime.bundle.specs import EnginePart, EngineSpec
from diffoundry.runtime.engines.body_cache import Body, current_body_cache
from diffoundry.runtime.engines.part_engines import OpenPart, PartEngines
from diffoundry.runtime.engines.part_names import CONDITIONING, HEAD, PRELUDE, SKIPPED
from diffoundry.runtime.engines.protocol import AdapterWeights, Array, Closeable, run_checked
from diffoundry.runtime.engines.run_ahead import run_ahead, time_input
from diffoundry.runtime.engines.run_memory import RunMemory, current_memory

__all__ = ["PartitionedEngine"]

_REMEMBERED = (CONDITIONING, PRELUDE)


class PartitionedEngine(Closeable):
    """The engines of the parts of a network, run one after another. An `AdaptableEngine`.

    Conditioning and prelude change with the call or the timestep alone. Within a run of a pipeline, they run once for
    each of their inputs, the prelude for all timesteps of the schedule at once; the `RunMemory` of the run keeps their
    results. The body of a split network is left out where
    the `BodyCache` of the loop says so. Nothing is kept here, so several threads and runs may share it.
    """

    def __init__(
        self,
        spec: EngineSpec,
        component: str,
        open_part: OpenPart,
        adapters: Mapping[str, Array],
        root: Path,
        *,
        releases: bool = False,
    ) -> None:
        """Open the engines of all parts.

        Args:
            spec: Engine of the whole network, with at least one part.
            component: Name of the network, for messages.
            open_part: Opens the engine of a part.
            adapters: As in `AdapterWeights`; empty for none.
            root: Folder of the bundle.
            releases: True to open a part when it first runs, and to close conditioning and prelude when the run has
                their results.

        Raises:
            EngineError: A part cannot be opened.
        """
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self.idle_inputs = frozenset(() if spec.idle is None else spec.idle.inputs)
        self._component, self._releases = component, releases
        self._parts = PartEngines(spec, open_part, adapters, root)
        self._adapting = threading.Lock()
        self._state = object()
        if not releases:
            self._parts.open_all()

    @property
    def least_memory(self) -> int:
        """See `LimitedEngine`; of the parts that are open."""
        return self._parts.least_memory

    def set_adapters(self, adapters: AdapterWeights | None) -> None:
        """See `AdaptableEngine.set_adapters`; what a run remembers of the layers before is not used again."""
        with self._adapting:
            self._state = object()
            self._parts.set_adapters({} if adapters is None else adapters.arrays)

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
        for part in self._parts.specs:
            left_out = self.idle_inputs.difference(feeds)
            mine = {one.name: values[one.name] for one in part.inputs if one.name not in left_out}
            if part.name in SKIPPED and cache is not None:
                values |= cache.results(self._body(state, part, mine, feeds, values, compares=cache.compares))
            elif memory is None or part.name not in _REMEMBERED:
                values |= self._run_part(part, mine)
            else:
                key, compute = (self, part.name), partial(self._compute, part, memory)
                values |= memory.recall(key, state, mine, part.shape_inputs, compute, time_input(part))
        return values

    def _compute(
        self, part: EnginePart, memory: RunMemory, feeds: Mapping[str, Array]
    ) -> Mapping[bytes, dict[str, Array]]:
        """Run a part whose results the run keeps, and close it where it is not needed again."""
        time = time_input(part)
        following = None if time is None else memory.following(feeds[time])
        if time is None:
            results = {b"": self._run_part(part, feeds)}
        elif following is None:
            return {feeds[time].tobytes(): self._run_part(part, feeds)}
        else:
            results = run_ahead(part, feeds, following, partial(self._run_part, part), one_by_one=self._releases)
        if self._releases:
            self._parts.close(part)
        return results

    def _body(
        self,
        state: object,
        part: EnginePart,
        mine: Mapping[str, Array],
        feeds: Mapping[str, Array],
        values: Mapping[str, Array],
        *,
        compares: bool,
    ) -> Body:
        """Describe a call of the inner part: its own inputs, those of the network, and all values so far."""
        head = next((one.residuals for one in self._parts.specs if one.name == HEAD and compares), {})
        return Body(
            weights=state,
            feeds={tensor.name: feeds[tensor.name] for tensor in self.inputs if tensor.name in feeds},
            change=next((values[after] - values[before] for after, before in head.items()), None),
            results=[tensor.name for tensor in part.outputs],
            base=next((values[name] for name in part.residuals.values()), None),
            run=partial(self._run_part, part, mine),
        )

    def _run_part(self, part: EnginePart, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return run_checked(self._parts.engine(part), feeds, f"{self._component}, part {part.name}")

    def close(self) -> None:
        """Close the engines of all parts."""
        self._parts.close_all()
