"""Inputs that a call may leave out: which of two graphs runs it, and zeros for the one that needs them."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.bundle.symbolic_sizes import resolve, solve
from diffoundry.runtime.engines.protocol import Array

__all__ = ["GraphSwitch"]

_PATIENCE = 100
"""Calls in a row without idle inputs after which the graph without them is opened again. Opening takes about as long as
some calls, and a call with zeros costs about a tenth more."""


class GraphSwitch:
    """Holds open either the whole graph of an engine, or the one without idle inputs. Safe to share between threads.

    No vendor shares prepared weights between two graphs, so both would hold them twice. The graph without idle inputs
    is open until a call feeds one. From then on the whole graph runs all calls, with zeros where inputs are left out,
    until none was fed in 100 calls in a row.

    Attributes:
        names: The idle inputs; none where the engine has one graph.
        whole: True while the whole graph is the open one.
        lock: Held while that changes.
    """

    def __init__(self, spec: EngineSpec | None) -> None:
        """Nothing is open yet.

        Args:
            spec: Manifest entry of the engine, or None.
        """
        self._inputs = () if spec is None else spec.inputs
        self.names = frozenset() if spec is None or spec.idle is None else frozenset(spec.idle.inputs)
        self.whole = not self.names
        self._left_out = 0
        self._open = True
        self.lock = threading.RLock()

    @contextmanager
    def turned(self, feeds: Mapping[str, Array], reopen: Callable[[], None]) -> Iterator[None]:
        """Within this context, the graph that runs these feeds is open, and no other thread changes it.

        Args:
            feeds: Of a call.
            reopen: Closes what is open, and opens the graph that `whole` then says.
        """
        if not self.names:
            yield
            return
        with self.lock:
            self._left_out = self._left_out + 1 if self.names.isdisjoint(feeds) else 0
            whole = not self._left_out or (self.whole and self._left_out < _PATIENCE)
            if whole != self.whole or not self._open:
                self.whole, self._open = whole, False
                reopen()
                self._open = True
            yield

    def filled(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the feeds of the whole graph: zeros for those that were left out, of one row of an unknown number."""
        missing = [spec for spec in self._inputs if spec.name in self.names and spec.name not in feeds]
        if not missing:
            return feeds
        sizes = solve(self._inputs, {name: array.shape for name, array in feeds.items()})
        unknown = {parse_size(side).symbol: 1 for spec in missing for side in spec.shape if isinstance(side, str)}
        known = {**unknown, **sizes}
        return {**feeds, **{spec.name: np.zeros(resolve(spec.shape, known) or (), spec.dtype) for spec in missing}}
