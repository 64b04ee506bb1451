"""Runs many calls of pipelines at once, step by step, on shared engines."""

import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from diffoundry.runtime.dispatch.lane import EngineLane, LaneOptions, pixels_of
from diffoundry.runtime.dispatch.loras import RequestLoras
from diffoundry.runtime.dispatch.pace import Pace, work_of
from diffoundry.runtime.dispatch.previews import check_previews, preview_steps, show_preview
from diffoundry.runtime.dispatch.progress import State
from diffoundry.runtime.dispatch.queue import RequestQueue
from diffoundry.runtime.dispatch.request import Request
from diffoundry.runtime.dispatch.row_memory import RowMemory
from diffoundry.runtime.dispatch.statistics import Statistics
from diffoundry.runtime.dispatch.turns import track_of
from diffoundry.runtime.engines.call_hook import CALL_HOOK
from diffoundry.runtime.errors import (
    CancelledError,
    DispatcherClosedError,
    InputError,
    QueueFullError,
    TimeLimitError,
)

if TYPE_CHECKING:
    from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["Dispatcher"]

_GUIDANCE = 2
"""Rows of an image with guidance."""


class Dispatcher:
    """Runs requests to one or several pipelines. Every method may be called from any thread.

    Each request is a run of its own, with its own scheduler, random numbers and caches. Only its engine calls are
    shared: one is made at a time, over all pipelines, and equal ones of several runs are joined. Requests join and
    leave between calls.
    """

    def __init__(
        self,
        *,
        max_active: int = 8,
        max_queued: int = 64,
        max_rows: int = 16,
        batching: bool = True,
        memory: int | None = None,
        gather_seconds: float = 0.02,
    ) -> None:
        """Start nothing; the first request starts a thread.

        Args:
            max_active: Runs under way at once. Pipelines with `low_memory` run one at a time.
            max_queued: Requests that may wait.
            max_rows: Rows of a joined engine call; an image with guidance has two.
            batching: False joins no calls: each run makes exactly those that it would make alone.
            memory: Bytes that this process may hold; calls are not joined, and requests wait, where it would hold more
                by what was measured. None for what the machine has.
            gather_seconds: Longest time that a call waits for runs that compute between two calls.

        Raises:
            InputError: A number is out of range.
        """
        least = {"max_active": 1, "max_queued": 0, "max_rows": 1}
        for (name, lowest), value in zip(least.items(), (max_active, max_queued, max_rows), strict=True):
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise InputError(f"{name}: got {value!r}, expected a whole number of at least {lowest}")
        if memory is not None and memory < 1:
            raise InputError(f"memory: got {memory!r}, expected a number of bytes of at least 1, or None")
        if not 0 <= gather_seconds < math.inf:
            raise InputError(f"gather_seconds: got {gather_seconds!r}, expected seconds of at least 0")
        self._max_active, self._max_queued = max_active, max_queued
        self._memory = RowMemory(memory)
        lane = LaneOptions(max_rows=max_rows, batching=batching, gather_seconds=gather_seconds)
        self._lane = EngineLane(lane, self._memory)
        self._loras = RequestLoras()
        self._lock = threading.RLock()
        self._queue = RequestQueue()
        self._active: list[Request] = []
        self._threads: set[threading.Thread] = set()
        self._counts: Counter[str] = Counter()
        self._pace = Pace()
        self._draining = False
        self._closed = False

    def submit(
        self,
        pipeline: "PipelineBase",
        arguments: Mapping[str, Any],
        *,
        previews: int | Collection[int] = 0,
        time_limit: float | None = None,
        loras: Mapping[str, float] | None = None,
    ) -> Request:
        """Check a call and put it into the queue.

        Args:
            pipeline: Its engines are opened when they are first needed; it stays open.
            arguments: Those of `pipeline(...)`.
            previews: Number of previews, evenly spread over the steps before the last; or the indices of the steps
                after which there is one. Each costs a call of the VAE.
            time_limit: Seconds from now to the end, or None.
            loras: Path of each LoRA of this request to its scale. Requests with other LoRAs wait for each other.

        Raises:
            InputError: An argument does not fit.
            QueueFullError: `max_queued` requests wait already.
            DispatcherClosedError: The dispatcher takes no more requests.
        """
        self._check_open()
        if time_limit is not None and not 0 < time_limit < threading.TIMEOUT_MAX:
            raise InputError(f"time_limit: got {time_limit!r}, expected seconds above 0, or None")
        check_previews(previews)
        own = self._loras.check(pipeline, loras)
        count, known = pipeline.check_call({"prompt": None, **arguments})
        request = Request(pipeline, dict(arguments), known, count, loras=own, previews=previews, on_stop=self._stop)
        with self._lock:
            self._check_open()
            self._queue.add(request)
            started = self._admit()
            if request in self._queue and len(self._queue) > self._max_queued:
                self._queue.remove(request)
                self._counts["refused"] += 1
                raise QueueFullError(len(self._queue), max(self._expected_wait(), 1.0))
            self._counts["submitted"] += 1
        if time_limit is not None:
            error = TimeLimitError(
                f"request {request.id}: it has not ended in {time_limit:g} seconds; generate fewer steps or a smaller "
                f"size, or raise time_limit"
            )
            request.timer = threading.Timer(time_limit, request.stop, [error])
            request.timer.daemon = True
            request.timer.start()
        self._start(started)
        return request

    @property
    def queued(self) -> tuple[Request, ...]:
        """The requests that wait, the next to start first."""
        with self._lock:
            return self._queue.in_order()

    @property
    def active(self) -> tuple[Request, ...]:
        """The requests that run."""
        with self._lock:
            return tuple(request for request in self._active if not request.finished)

    @property
    def draining(self) -> bool:
        """True once it takes no more requests."""
        return self._draining

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def position(self, request: Request) -> int | None:
        """Return the number of requests that start before one; None where it does not wait."""
        order = self.queued
        return order.index(request) if request in order else None

    def statistics(self) -> Statistics:
        """Return the counters of now."""
        components = self._lane.components()
        with self._lock:
            return Statistics(
                queued=len(self._queue),
                active=len(self.active),
                components=components,
                engine_calls=sum(one.calls for one in components.values()),
                engine_rows=sum(one.rows for one in components.values()),
                expected_wait=self._expected_wait(),
                **self._counts,
            )

    def drain(self, timeout: float | None = None) -> tuple[Request, ...]:
        """Take no more requests, and wait for those that there are.

        Args:
            timeout: Seconds to wait; None for any time.

        Returns:
            Those that have not finished in this time; they go on.
        """
        self._draining = True
        end = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            requests = (*self._queue.in_order(), *self._active)
        return tuple(one for one in requests if not one.wait(None if end is None else max(end - time.monotonic(), 0.0)))

    def close(self) -> None:
        """Take no more requests, cancel those that there are, and end the threads. Pipelines stay open."""
        self._draining = self._closed = True
        with self._lock:
            requests, threads = (*self._queue.in_order(), *self._active), list(self._threads)
        for request in requests:
            request.stop(CancelledError(f"request {request.id}: the dispatcher was closed, so it has no result"))
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()
        self._lane.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._draining:
            raise DispatcherClosedError("the dispatcher takes no more requests: it is being closed; make another one")

    def _expected_wait(self) -> float:
        if len(self._active) < self._max_active and not len(self._queue):
            return 0.0
        return self._pace.expect((*self._queue.in_order(), *self._active))

    def _admit(self) -> list[Request]:
        """Move the requests that can start from the queue; the caller starts them."""
        started = []
        while (request := self._queue.next()) is not None and self._may_start(request):
            self._queue.take(request)
            self._active.append(request)
            self._pace.begin()
            started.append(request)
        return started

    def _may_start(self, request: Request) -> bool:
        if not self._active:
            return True
        sessions = request.pipeline.sessions
        beside = [one for one in self._active if not {*sessions}.isdisjoint(one.pipeline.sessions)]
        if len(self._active) >= self._max_active or (beside and any(one.low_memory for one in sessions)):
            return False
        if any(one.loras != request.loras for one in beside):
            return False
        size = request.count * _GUIDANCE * pixels_of(request)
        return sum(self._memory.needed(one, size) for one in sessions) <= self._memory.free()

    def _start(self, requests: list[Request]) -> None:
        for request in requests:
            self._lane.open()
            self._lane.enter(request)
            request.start()
            name = f"diffoundry-request-{request.id[:8]}"
            thread = threading.Thread(target=self._work, args=(request,), name=name, daemon=True)
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def _work(self, request: Request) -> None:
        """Run a request from its start to its end, in a thread of its own."""
        CALL_HOOK.set(partial(self._lane.call, request))
        result, error = None, None
        try:
            result = self._generate(request)
        except BaseException as raised:  # noqa: BLE001  # the caller of `result` gets it
            error = raised
        error = request.seal() or error
        self._lane.leave(request)
        self._finish(request, result, error)
        with self._lock:
            self._active.remove(request)
            self._threads.discard(threading.current_thread())
            if not self._active:
                self._pace.pause()
            started = self._admit()
        self._start(started)

    def _generate(self, request: Request) -> Any:
        if request.stopped is not None:
            raise request.stopped
        self._loras.apply(cast("Any", request.pipeline), request.loras)
        run = request.pipeline.start(**request.given)
        request.follow(run)
        self._lane.follow(request, track_of(run, request.pipeline))
        share = work_of(request) / max(run.total, 1)
        for step in run:
            self._lane.advance(request)
            with self._lock:
                self._counts["steps"] += 1
                self._pace.add(share)
            shown = step.index in preview_steps(request.previews, run.total)
            request.publish(step, show_preview(run) if shown else None)
        return run.finish()

    def _finish(self, request: Request, result: Any, error: BaseException | None) -> None:
        kinds: list[tuple[type[BaseException], str, State]] = [
            (CancelledError, "cancelled", "cancelled"),
            (TimeLimitError, "timed_out", "failed"),
            (BaseException, "failed", "failed"),
        ]
        found = next(((count, state) for kind, count, state in kinds if isinstance(error, kind)), None)
        count, state = found or ("done", "done")
        with self._lock:
            self._counts[count] += 1
            if state == "done":
                self._counts["images"] += request.count
        request.end(state, result, error)

    def _stop(self, request: Request) -> None:
        """End a request that was stopped: at once in the queue, otherwise its wait for an engine."""
        with self._lock:
            waits = request in self._queue
            if waits:
                self._queue.remove(request)
        if waits:
            self._finish(request, None, request.stopped)
        else:
            self._lane.drop(request)
