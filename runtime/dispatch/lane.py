"""Makes the engine calls of all runs, one at a time, and joins those that can be."""

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from diffoundry.runtime.dispatch.joining import EngineCall, describe_call, join_feeds, split_outputs
from diffoundry.runtime.dispatch.request import Request
from diffoundry.runtime.dispatch.row_memory import RowMemory
from diffoundry.runtime.dispatch.statistics import ComponentStatistics, add_call
from diffoundry.runtime.dispatch.turns import Track, choose_call, join_calls
from diffoundry.runtime.engines.available_memory import own_memory
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.engines.session import EngineSession

__all__ = ["EngineLane", "LaneOptions", "pixels_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneOptions:
    """As `Dispatcher`.

    Attributes:
        max_rows: Rows of a joined call.
        batching: False joins nothing.
        gather_seconds: Time that a call waits for runs that compute between two calls.
    """

    max_rows: int
    batching: bool
    gather_seconds: float


@dataclass(slots=True)
class _Waiting:
    calls: list[EngineCall] = field(default_factory=list)
    computing: set[Request] = field(default_factory=set)
    tracks: dict[Request, Track | None] = field(default_factory=dict)


class EngineLane:
    """One thread that makes every engine call, so that models do not compete for cores."""

    def __init__(self, options: LaneOptions, memory: RowMemory) -> None:
        """Start nothing; `open` starts the thread."""
        self._options, self._memory = options, memory
        self._changed = threading.Condition()
        self._state = _Waiting()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._before: tuple[tuple[int, int], float] = ((0, 0), 0.0)
        self._components: defaultdict[str, ComponentStatistics] = defaultdict(ComponentStatistics)

    def open(self) -> None:
        """Start the thread, unless it runs."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="diffoundry-engines", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread, after all calls that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def components(self) -> dict[str, ComponentStatistics]:
        """Return the counters of every component."""
        with self._changed:
            return dict(self._components)

    def enter(self, request: Request) -> None:
        """Begin to wait for the calls of a run."""
        with self._changed:
            self._state.computing.add(request)

    def follow(self, request: Request, track: Track | None) -> None:
        """Store the place of a run in its schedule."""
        self._state.tracks[request] = track

    def advance(self, request: Request) -> None:
        """Count a step of a run."""
        track = self._state.tracks.get(request)
        if track is not None:
            track.remaining -= 1

    def leave(self, request: Request) -> None:
        """Wait no longer for the calls of a run."""
        with self._changed:
            self._state.computing.discard(request)
            self._state.tracks.pop(request, None)
            self._changed.notify_all()

    def drop(self, request: Request) -> None:
        """End the wait of a run that was stopped; a call under way goes on, and its result is dropped."""
        with self._changed:
            for call in [call for call in self._state.calls if call.request is request]:
                self._state.calls.remove(call)
                self._finish(call)

    def call(
        self, request: Request, session: EngineSession, component: str, feeds: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Make a call of a run, when it is its turn.

        Raises:
            BaseException: The request was stopped, or the engine failed.
        """
        call = describe_call(request, session, component, feeds)
        with self._changed:
            if request.stopped is not None:
                raise request.stopped
            self._state.calls.append(call)
            self._state.computing.discard(request)
            self._changed.notify_all()
        call.ready.wait()
        if request.stopped is not None:
            raise request.stopped
        if call.error is not None:
            raise call.error
        assert call.outputs is not None, "a call has outputs or an error"
        return call.outputs

    def _finish(self, call: EngineCall) -> None:
        """Wake the run of a call; it computes until its next one."""
        self._state.computing.add(call.request)
        call.ready.set()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._state.calls or self._closed)
                if self._options.batching:
                    self._changed.wait_for(lambda: not self._state.computing, self._options.gather_seconds)
                if not self._state.calls:
                    if self._closed:
                        return
                    continue
                calls = self._choose()
            self._make(calls)
            with self._changed:
                for call in calls:
                    self._finish(call)

    def _choose(self) -> list[EngineCall]:
        waiting = self._state.calls
        calls = [waiting[0]]
        if self._options.batching:
            chosen = waiting[choose_call([self._state.tracks.get(call.request) for call in waiting])]
            calls = join_calls(waiting, chosen, self._options.max_rows)
            while len(calls) > 1 and not self._fits(calls):
                calls.pop()
        for call in calls:
            waiting.remove(call)
        return calls

    def _fits(self, calls: list[EngineCall]) -> bool:
        size = sum(call.rows * pixels_of(call.request) for call in calls)
        return self._memory.fits(calls[0].session, calls[0].component, size)

    def _make(self, calls: list[EngineCall]) -> None:
        """Make calls as one. If that fails, each is made alone, so that a run only gets an error of its own."""
        try:
            outputs = [self._run_alone(calls[0])] if len(calls) == 1 else self._run_joined(calls)
        except Exception as error:  # noqa: BLE001  # the run gets it
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self._make([call])
            return
        for call, result in zip(calls, outputs, strict=True):
            call.outputs = result
        self._note(calls)

    def _run_alone(self, call: EngineCall) -> dict[str, Array]:
        return call.context.run(self._run, call, call.feeds)

    def _run_joined(self, calls: list[EngineCall]) -> list[dict[str, Array]]:
        return split_outputs(calls, self._run(calls[0], join_feeds(calls)))

    def _run(self, call: EngineCall, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._before = own_memory(), time.perf_counter()
        return call.session.run(call.component, feeds)

    def _note(self, calls: list[EngineCall]) -> None:
        """Count a call, and measure its memory."""
        (held, peak), start = self._before
        rows = sum(call.rows for call in calls)
        seconds = time.perf_counter() - start
        size = sum(call.rows * pixels_of(call.request) for call in calls)
        first = calls[0]
        highest = own_memory()[1]
        self._memory.record(first.session, first.component, size, highest - held if highest > peak else 0)
        name = f"{first.session.bundle.root.name}/{first.component}"
        with self._changed:
            self._components[name] = add_call(self._components[name], len(calls), rows, seconds)


def pixels_of(request: Request) -> int:
    """Return the pixels of an image of a request; 1 where it has no size."""
    sides = (request.arguments.get(name) for name in ("height", "width"))
    height, width = (side if isinstance(side, int) else 1 for side in sides)
    return height * width
