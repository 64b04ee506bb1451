"""`await pipe.agenerate(...)`: calls of a pipeline from asyncio, on a dispatcher."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from diffoundry.runtime.dispatch.dispatcher import Dispatcher
    from diffoundry.runtime.dispatch.request import Request
    from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["AsyncCalls"]


class AsyncCalls:
    """The methods of a pipeline for asyncio."""

    _dispatcher: "Dispatcher | None" = None
    _own_dispatcher: bool = False

    @property
    def dispatcher(self) -> "Dispatcher":
        """Runs the calls of `agenerate` and `astart`. Set it to share one between pipelines, or to choose its limits.

        One that was not set is made at the first call, and closed with the pipeline.
        """
        if self._dispatcher is None:
            from diffoundry.runtime.dispatch.dispatcher import Dispatcher

            self._dispatcher, self._own_dispatcher = Dispatcher(), True
        return self._dispatcher

    @dispatcher.setter
    def dispatcher(self, dispatcher: "Dispatcher") -> None:
        self._close_dispatcher()
        self._dispatcher = dispatcher

    def astart(
        self,
        prompt: Any = None,
        *,
        previews: int | Collection[int] = 0,
        time_limit: float | None = None,
        loras: Mapping[str, float] | None = None,
        **arguments: Any,
    ) -> "Request":
        """Submit a call: `async for progress in request` gives its steps, `await request` its result.

        Args:
            prompt: As in a call.
            previews: As `Dispatcher.submit`, like the two that follow.
            time_limit: See there.
            loras: See there.
            arguments: Those of a call.

        Raises:
            InputError: An argument does not fit.
            QueueFullError: Too many requests wait.
            DispatcherClosedError: The dispatcher takes no more.
        """
        pipeline = cast("PipelineBase", self)
        call = {"prompt": prompt, **arguments}
        return self.dispatcher.submit(pipeline, call, previews=previews, time_limit=time_limit, loras=loras)

    async def agenerate(self, prompt: Any = None, **arguments: Any) -> Any:
        """Generate, without blocking the event loop. Cancelling the task ends the run after its engine call under way.

        Args:
            prompt: As in a call.
            arguments: Those of a call, and of `astart`.

        Raises:
            DiffoundryError: As `astart`, and as a call.
        """
        return await self.astart(prompt, **arguments)

    def _close_dispatcher(self) -> None:
        """Close the dispatcher that was made here."""
        if self._own_dispatcher and self._dispatcher is not None:
            self._dispatcher.close()
        self._dispatcher, self._own_dispatcher = None, False
