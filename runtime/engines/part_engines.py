"""The engines of the parts of a network, opened and closed one by one."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from diffoundry.runtime.bundle.specs import EnginePart, EngineSpec
from diffoundry.runtime.engines.protocol import AdaptableEngine, AdapterWeights, Array, Engine, closed_error

__all__ = ["OpenPart", "PartEngines", "memory_shares"]

OpenPart = Callable[[EngineSpec, AdapterWeights | None], Engine]
"""Opens the engine of one part, with adapters or without."""


class PartEngines:
    """Engines by the names of their parts. Safe to share between threads.

    Attributes:
        specs: The parts, in the order in which they run.
    """

    def __init__(self, spec: EngineSpec, open_part: OpenPart, adapters: Mapping[str, Array], root: Path) -> None:
        """Open nothing yet; see `PartitionedEngine`."""
        self.specs = spec.parts
        self._whole, self._open_part, self._root = spec, open_part, root
        self._adapters = adapters
        self._engines: dict[str, Engine] = {}
        self._lock = threading.RLock()
        self._closed = False

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of the parts whose engines are open."""
        return tuple(self._engines)

    @property
    def least_memory(self) -> int:
        """Bytes of the largest piece of the parts that are open; see `LimitedEngine`."""
        return max((getattr(engine, "least_memory", 0) for engine in self._engines.values()), default=0)

    def open_all(self) -> None:
        """Open the engines of all parts.

        Raises:
            EngineError: A part cannot be opened; none is open then.
        """
        try:
            for part in self.specs:
                self.engine(part)
        except BaseException:
            self.close_all()
            raise

    def engine(self, part: EnginePart) -> Engine:
        """Return the engine of a part, opened where it is not.

        Raises:
            EngineError: It cannot be opened, or all were closed.
        """
        with self._lock:
            if self._closed:
                raise closed_error(self._root / self._whole.files[0])
            if part.name not in self._engines:
                weights = self._weights(part, self._adapters)
                self._engines[part.name] = self._open_part(self._whole.of_part(part), weights)
            return self._engines[part.name]

    def _weights(self, part: EnginePart, arrays: Mapping[str, Array]) -> AdapterWeights | None:
        """Return the adapters of the layers of a part; None for none."""
        if part.adapters is None:
            return None
        layers = part.adapters.layers.keys()
        mine = {name: array for name, array in arrays.items() if name.rpartition(".")[0] in layers}
        return AdapterWeights(graph=self._root / part.adapters.files[0], arrays=mine) if mine else None

    def set_adapters(self, arrays: Mapping[str, Array]) -> None:
        """Apply adapters in all parts, now or when they open; see `AdapterWeights.arrays`."""
        with self._lock:
            self._adapters = arrays
            for part in self.specs:
                if part.adapters is not None and part.name in self._engines:
                    cast("AdaptableEngine", self._engines[part.name]).set_adapters(self._weights(part, arrays))

    def close(self, part: EnginePart) -> None:
        """Close the engine of a part; the next call opens it again. No other thread may be running it."""
        with self._lock:
            engine = self._engines.pop(part.name, None)
        if engine is not None:
            engine.close()

    def close_all(self) -> None:
        """Close the engines of all parts for good."""
        with self._lock:
            self._closed = True
        for part in self.specs:
            self.close(part)


def memory_shares(parts: Sequence[EnginePart], memory: int | None) -> dict[str, int]:
    """Return the memory that each part of a network may take, by its first file; none without a limit."""
    total = sum(part.weights for part in parts)
    return {} if memory is None else {part.files[0]: memory * part.weights // max(total, 1) for part in parts}
