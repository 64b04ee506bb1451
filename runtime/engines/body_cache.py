"""Results of the inner part of a split network, for one denoising loop of one run."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np

from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.engines.run_memory import is_same, keep

__all__ = ["Body", "BodyCache", "Kept", "RunsBody", "current_body_cache", "watch_bodies"]

_current: ContextVar["BodyCache | None"] = ContextVar("body_cache", default=None)

_watched: ContextVar["list[bool] | None"] = ContextVar("watched_bodies", default=None)


class RunsBody(Protocol):
    """Decides whether a step runs the body."""

    def __call__(self, index: int, change: Array | None, before: Array | None) -> bool:
        """Return the decision; called once for each step, with the values of its first call.

        Args:
            index: Of the step.
            change: Sum that the first block of a transformer adds to its input, (B, tokens, D); None for a UNet, and
                where `BodyCache.compares` is False.
            before: The same in the last step that ran the body.
        """


class Kept(Protocol):
    """Results of steps, and the one that is taken in a step without: `approximations.caches.Forecast`."""

    def keep(self, output: Array, index: int) -> None:
        """Take the result of a step."""

    def __call__(self, index: int) -> Array:
        """Return the result for a step that computes none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """One call of a split network, when its head has run.

    Attributes:
        weights: Identity of the engine and its adapters.
        feeds: Inputs of the network.
        change: As `RunsBody`.
        results: Names of its results. Of several only the sum counts, so in a step that does not run it the first is
            all of it, and the others are zero.
        base: Value to which its blocks add; what they add is kept. None: the result itself is kept.
        run: Runs the body.
    """

    weights: object
    feeds: Mapping[str, Array]
    change: Array | None
    results: Sequence[str]
    base: Array | None
    run: Callable[[], dict[str, Array]]


@dataclass(kw_only=True, slots=True)
class _Entry:
    """The calls of a loop that belong together: those of one branch of guidance, or of one part of a batch."""

    weights: object
    feeds: Mapping[str, Array]
    step: int
    kept: Kept
    change: Array | None = None


class BodyCache:
    """Runs the body of a split network in some steps, and takes earlier results in the others.

    All calls of a step follow one decision, which its first call makes: so both branches of guidance decide together,
    however many calls they take. A call takes results only of a call with the same prompts and other inputs, of the
    same weights, and in the same place of its step; one that finds none runs the body. Belongs to one loop.

    Attributes:
        compares: True if `Body.change` is read.
    """

    def __init__(
        self, decide: RunsBody, make_kept: Callable[[], Kept], varies: Callable[[str], bool], *, compares: bool
    ) -> None:
        """Keep nothing yet.

        Args:
            decide: Makes the decisions.
            make_kept: Makes what keeps one result.
            varies: Name of an input -> True if it changes from step to step, such as latents.
            compares: True if the decisions read what the first block adds; it is neither computed nor kept otherwise.
        """
        self.compares = compares
        self._decide, self._make_kept, self._varies = decide, make_kept, varies
        self._entries: list[_Entry] = []
        self._step = -1
        self._decision: bool | None = None

    @contextmanager
    def step(self, index: int) -> Iterator[None]:
        """Let the engines that the block calls, on this thread, find this cache in one step."""
        self._entries = [entry for entry in self._entries if entry.step == self._step]  # bounds what a run holds
        self._step, self._decision = index, None
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def results(self, body: Body) -> dict[str, Array]:
        """Return the results of the body, run or taken from earlier steps."""
        varying = [name for name in body.feeds if self._varies(name)]
        entry = self._find(body, varying)
        if self._decision is None:
            self._decision = entry is None or self._decide(self._step, body.change, entry.change)
        runs = entry is None or self._decision
        watched = _watched.get()
        if watched is not None:
            watched.append(runs)
        if entry is None:
            feeds = keep(body.feeds, varying)
            entry = _Entry(weights=body.weights, feeds=feeds, step=self._step, kept=self._make_kept())
            self._entries.append(entry)
        elif not runs:
            entry.step = self._step
            kept = entry.kept(self._step)
            whole = kept if body.base is None else kept + body.base
            return {name: np.zeros_like(whole) if index else whole for index, name in enumerate(body.results)}
        outputs = body.run()
        whole = reduce(np.add, [outputs[name] for name in body.results])
        entry.kept.keep(whole if body.base is None else whole - body.base, self._step)
        entry.step, entry.change = self._step, body.change
        return outputs

    def _find(self, body: Body, varying: Collection[str]) -> _Entry | None:
        """Return the entry of a call that has made none yet in this step."""
        for entry in self._entries:
            if entry.step != self._step and entry.weights is body.weights and is_same(entry.feeds, body.feeds, varying):
                return entry
        return None


def current_body_cache() -> BodyCache | None:
    """Return the cache of the loop that calls an engine on this thread; None where every step runs the body."""
    return _current.get()


@contextmanager
def watch_bodies() -> Iterator[list[bool]]:
    """Yield a list that gets, for each call with a cache on this thread, whether it ran the body."""
    calls: list[bool] = []
    token = _watched.set(calls)
    try:
        yield calls
    finally:
        _watched.reset(token)
