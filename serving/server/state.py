"""Everything that the endpoints of one server share."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.serving.lora_folder import LoraFolder
from diffoundry.serving.server.image_store import ImageStore
from diffoundry.serving.server.jobs import Jobs
from diffoundry.serving.server.limits import Limits
from diffoundry.serving.server.metrics import Metrics
from diffoundry.serving.server.models import Model
from diffoundry.serving.server.read_request import BodyBudget
from diffoundry.serving.server.security import ApiKeys

__all__ = ["ServerState"]

P = ParamSpec("P")
T = TypeVar("T")


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="diffoundry-images")


@dataclass(kw_only=True, slots=True)
class ServerState:
    """The state of a server.

    Attributes:
        models: By name.
        dispatcher: Runs the calls.
        loras: Those that clients may name.
        keys: API keys.
        limits: Limits.
        jobs, store, metrics, budget: As their classes say.
        origins: Other origins whose pages may use the server.
        loopback: True if it listens on this machine alone.
        draining: True from the signal to stop on.
        loaded: True as soon as all engines are open.
        connections: Those that are open.
        threads: Decode and encode images, two at once, so that the event loop goes on.
    """

    models: Mapping[str, Model]
    dispatcher: Dispatcher
    loras: LoraFolder
    keys: ApiKeys
    limits: Limits
    jobs: Jobs
    store: ImageStore
    metrics: Metrics
    budget: BodyBudget
    origins: tuple[str, ...] = ()
    loopback: bool = True
    draining: bool = False
    loaded: bool = False
    connections: Collection[Any] = ()
    threads: ThreadPoolExecutor = field(default_factory=_threads)

    async def in_thread(self, function: "Callable[P, T]", /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in one of the threads."""
        loop = asyncio.get_running_loop()
        call: Callable[[], Any] = lambda: function(*args, **kwargs)  # noqa: E731
        found: T = await loop.run_in_executor(self.threads, call)
        return found
