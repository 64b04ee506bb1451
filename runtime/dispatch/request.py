"""One request to a dispatcher: its state, its progress, its result."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from diffoundry.runtime.dispatch.progress import Listener, Progress, State, tell_listener
from diffoundry.runtime.errors import CancelledError
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffoundry.runtime.dispatch.loras import RequestLora
    from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["Request"]


class Request:
    """A call of a pipeline that a dispatcher runs. Every method may be called from any thread.

    `await request` gives its result, and `async for progress in request` its steps. Cancelling the task that waits
    cancels the request. `async with request:` cancels it when the block is left before it has finished.

    Attributes:
        id: 32 hexadecimal digits.
        pipeline: The pipeline.
        given: The arguments of the call as they were given.
        arguments: Every argument that has a value, defaults and size included.
        count: Number of images.
        loras: Path to each LoRA of the request.
        previews: As `Dispatcher.submit`.
    """

    def __init__(
        self,
        pipeline: "PipelineBase",
        given: Mapping[str, Any],
        arguments: Mapping[str, Any],
        count: int,
        *,
        loras: "Mapping[str, RequestLora]",
        previews: int | Collection[int],
        on_stop: "Callable[[Request], None]",
    ) -> None:
        """Begin in the state "queued"; `Dispatcher.submit` makes requests.

        Args:
            pipeline: See the class, as for those that follow.
            given: See above.
            arguments: See above.
            count: See above.
            loras: See above.
            previews: See above.
            on_stop: Called in the thread that stops the request, before it has finished.
        """
        self.id = uuid.uuid4().hex
        self.pipeline, self.given, self.arguments, self.count = pipeline, given, arguments, count
        self.loras, self.previews = loras, previews
        self._on_stop = on_stop
        self._changed = threading.Condition()
        self._delivery = threading.RLock()  # listeners get events in order
        self._listeners: list[Listener] = []
        self._events: list[Progress] = []
        self._state: State = "queued"
        self._run: Run[Any] | None = None
        self._total: int | None = None
        self._sealed = False
        self._stop: BaseException | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._ended: float | None = None
        self.timer: threading.Timer | None = None

    @property
    def state(self) -> State:
        """Its state: waiting, running, or the way that it ended."""
        return self._state

    @property
    def finished(self) -> bool:
        """True once it is done, cancelled or failed."""
        return self._state not in ("queued", "running")

    @property
    def total(self) -> int | None:
        """Number of steps; None before it runs."""
        return self._total if self._run is None else self._run.total

    @property
    def done_steps(self) -> int:
        """Number of finished steps."""
        return len(self._events)

    @property
    def run(self) -> Run[Any] | None:
        """The run, once it is prepared; None again where it did not end well. It belongs to the dispatcher's thread."""
        return self._run

    @property
    def queued_seconds(self) -> float:
        """Time in the queue, so far or in all."""
        return (self._started or self._ended or time.monotonic()) - self._submitted

    @property
    def running_seconds(self) -> float:
        """Time from the start to the end, or until now; 0 before."""
        return 0.0 if self._started is None else (self._ended or time.monotonic()) - self._started

    @property
    def error(self) -> BaseException | None:
        """The error that `result` raises, or None."""
        return self._error

    def cancel(self) -> bool:
        """Stop the request: in the queue at once, while it runs after its engine call under way.

        Returns:
            False if it had finished before.
        """
        return self.stop(CancelledError(f"request {self.id}: it was cancelled, so it has no result; submit it again"))

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return what `pipeline(**arguments)` returns.

        Args:
            timeout: Seconds to wait; None for any time.

        Raises:
            TimeoutError: It has not finished in this time, and goes on.
            CancelledError: It was cancelled.
            TimeLimitError: Its own time limit ran out.
            DiffoundryError: As `pipeline(**arguments)`.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"request {self.id}: it has not finished in {timeout:g} seconds; wait longer, or cancel")
        if self._error is not None:
            raise self._error
        return self._result

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds; return whether it has finished."""
        with self._changed:
            return self._changed.wait_for(lambda: self.finished, timeout)

    def events(self) -> Iterator[Progress]:
        """Yield the progress of every step from the first on, as they finish; the end of the request ends it.

        `result` then returns or raises. Several may read at once.
        """
        index = 0
        while True:
            with self._changed:
                while not self.finished and len(self._events) == index:
                    self._changed.wait()
                if index == len(self._events):
                    return
                event = self._events[index]
            index += 1
            yield event

    def add_listener(self, listener: Listener) -> None:
        """Call a function after every step, and with None at the end; earlier steps are passed at once.

        It runs in a thread of the dispatcher and shall return quickly. An error that it raises is logged, and changes
        nothing else.
        """
        with self._delivery:
            for event in list(self._events):
                tell_listener(listener, event)
            if self.finished:
                tell_listener(listener, None)
            else:
                self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Call this function no more."""
        with self._delivery:
            if listener in self._listeners:
                self._listeners.remove(listener)

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Yield the progress of every step from the first on; as `events`, for a task."""
        queue: asyncio.Queue[Progress | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Progress | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        self.add_listener(tell)
        try:
            while (event := await queue.get()) is not None:
                yield event
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            self.remove_listener(tell)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait_for_result().__await__()

    async def _wait_for_result(self) -> Any:
        async for _ in self:
            pass
        return self.result(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __repr__(self) -> str:
        return f"Request({self.id}, {self._state}, {self.done_steps} of {self.total or 'unknown'} steps)"

    # The methods below are for the dispatcher.

    def stop(self, error: BaseException) -> bool:
        """End the request with an error; see `cancel`."""
        with self._changed:
            if self.finished or self._sealed:
                return False
            first, self._stop = self._stop is None, self._stop or error
            if self._run is not None:
                self._run.signal.cancelled = True
        if first:
            self._on_stop(self)
        return True

    def seal(self) -> BaseException | None:
        """Refuse to be stopped from now on; return the error of an earlier stop, or None."""
        with self._changed:
            self._sealed = True
            return self._stop

    @property
    def stopped(self) -> BaseException | None:
        """The error that shall end it, or None."""
        return self._stop

    def start(self) -> None:
        """Leave the queue."""
        self._state, self._started = "running", time.monotonic()

    def follow(self, run: Run[Any]) -> None:
        """Store the run that it has become.

        Raises:
            BaseException: It was stopped.
        """
        with self._changed:
            self._run = run
            if self._stop is not None:
                raise self._stop

    def publish(self, step: Step, images: "list[Image] | None") -> None:
        """Pass a step to all who follow."""
        assert self._run is not None, "its run has begun"
        event = Progress(
            index=step.index,
            total=self._run.total,
            timestep=step.timestep,
            stage=step.stage,
            seconds=self.running_seconds,
            images=images,
        )
        with self._delivery:
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()
            for listener in list(self._listeners):
                tell_listener(listener, event)

    def end(self, state: State, result: Any, error: BaseException | None) -> None:
        """Store the result and end all waits."""
        if self.timer is not None:
            self.timer.cancel()
        with self._delivery:
            with self._changed:
                self._result, self._error, self._state, self._ended = result, error, state, time.monotonic()
                self._total = self.total
                if state != "done":
                    self._run = None  # its generator holds arrays
                self._changed.notify_all()
            listeners, self._listeners = self._listeners, []
            for listener in listeners:
                tell_listener(listener, None)
