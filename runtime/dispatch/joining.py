"""Engine calls of several runs as one: which calls can be joined, and what each run gets of the result."""

import threading
from collections.abc import Hashable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from diffoundry.runtime.dispatch.request import Request
from diffoundry.runtime.engines.body_cache import current_body_cache
from diffoundry.runtime.engines.call_hook import CALL_HOOK
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.engines.session import EngineSession

__all__ = ["EngineCall", "describe_call", "join_feeds", "split_outputs"]


@dataclass(kw_only=True, slots=True, eq=False)
class EngineCall:
    """An engine call of one run that waits to be made.

    Attributes:
        request: The request that waits.
        session: The engines.
        component: Name of the component.
        feeds: One array for each input.
        rows: Rows of the call.
        key: Calls with equal keys can be joined; None for a call that is made alone.
        batched: Names of the inputs that have a row for each image.
        limit: Rows that the engine takes at once; None for any number.
        context: Of the run, with its caches; for a call that is made alone.
        ready: Set when `outputs` or `error` is there.
        outputs: The result.
        error: Or the error.
    """

    request: Request
    session: EngineSession
    component: str
    feeds: Mapping[str, Array]
    rows: int = 1
    key: Hashable = None
    batched: frozenset[str] = frozenset()
    limit: int | None = None
    context: Context = field(default_factory=copy_context)
    ready: threading.Event = field(default_factory=threading.Event)
    outputs: dict[str, Array] | None = None
    error: BaseException | None = None


def describe_call(request: Request, session: EngineSession, component: str, feeds: Mapping[str, Array]) -> EngineCall:
    """Return a call with the key that says which others it can be joined with.

    Equal keys mean: the same engine, inputs of the same types and shapes but for their rows, and equal values in the
    inputs without rows, such as the timestep and tables of positions. The manifest names the dimension of the rows. A
    folder without a manifest has no keys: nobody says that its rows are computed independently of each other. Nor has a
    call of a loop that leaves out the inner part of its network in some steps: others run it in other steps.

    Args:
        request: Of the call.
        session: The engines.
        component: Name of the component.
        feeds: One array for each input.

    Raises:
        BundleError: The bundle has no such component.
        EngineError: No engine of it can run here.
    """
    call = EngineCall(request=request, session=session, component=component, feeds=feeds)
    call.context.run(CALL_HOOK.set, None)
    choice = session.choice(component)
    if choice is None or current_body_cache() is not None:
        return call
    idle = () if choice.spec.idle is None else choice.spec.idle.inputs
    inputs = {one.name: one.shape for one in choice.spec.inputs if one.name in feeds or one.name not in idle}
    first = next(iter(inputs))
    symbol = inputs[first][0] if inputs[first] else None
    whole = any(not spec.shape or spec.shape[0] != symbol for spec in choice.spec.outputs)
    if feeds.keys() != inputs.keys() or symbol in (None, 1) or whole or not feeds[first].ndim:
        return call
    rows = len(feeds[first])
    batched = frozenset(name for name, shape in inputs.items() if shape and shape[0] == symbol)
    if any(not feeds[name].ndim or len(feeds[name]) != rows for name in batched):
        return call
    parts = tuple(
        (name, feeds[name].dtype.str, feeds[name].shape[1:], None)
        if name in batched
        else (name, feeds[name].dtype.str, feeds[name].shape, feeds[name].tobytes())
        for name in inputs
    )
    call.rows, call.batched, call.limit = rows, batched, session.row_limit(component)
    call.key = (id(session), component, parts)
    return call


def join_feeds(calls: Sequence[EngineCall]) -> dict[str, Array]:
    """Return the feeds of one call for several with equal keys, their rows one after another."""
    first = calls[0]
    return {
        name: np.concatenate([call.feeds[name] for call in calls]) if name in first.batched else array
        for name, array in first.feeds.items()
    }


def split_outputs(calls: Sequence[EngineCall], outputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Return the rows of each call; they belong to its run."""
    bounds = np.cumsum([0, *(call.rows for call in calls)])
    return [{name: array[start:end].copy() for name, array in outputs.items()} for start, end in pairwise(bounds)]
