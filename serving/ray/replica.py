"""A replica of the deployment: opens bundles as they are asked for, and runs all requests on one dispatcher."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from diffoundry.runtime.bundle.identity import find_difference
from diffoundry.runtime.cli.open_pipeline import open_pipeline
from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.suggest import did_you_mean
from diffoundry.serving.lora_folder import LoraFolder
from diffoundry.serving.server import security
from diffoundry.serving.server.app import create_app
from diffoundry.serving.server.errors import ApiError
from diffoundry.serving.server.limits import Limits
from diffoundry.serving.server.make_state import make_state
from diffoundry.serving.server.middleware import error_response
from diffoundry.serving.server.security import ApiKeys
from diffoundry.serving.server.state import ServerState

__all__ = ["BundleReplica", "OpenModel", "ReplicaOptions", "read_keys"]

_HEADER = "serve_multiplexed_model_id"

_LIMITS = Limits(stored_bytes=0)
"""A URL of an image would be valid at the replica that made it, and the next request may reach another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaOptions:
    """The options of a replica.

    Attributes:
        bundles: Folders of each model, several of a chain, by its name.
        identity: As `identify` returned it for them on the machine of the deployment.
        engines: Keyword arguments of `load`.
        active: Requests that run at once.
        queue: Requests that wait.
        keys: API keys of clients over HTTP.
        loras: Folder of the LoRAs that requests may name; None allows none.
    """

    bundles: Mapping[str, tuple[Path, ...]]
    identity: Mapping[str, str]
    engines: Mapping[str, Any]
    active: int
    queue: int
    keys: ApiKeys
    loras: Path | None

    @property
    def lora_folder(self) -> LoraFolder:
        """The LoRAs that requests may name."""
        return LoraFolder(self.loras, option="lora_dir")

    def state(self, pipelines: Sequence[PipelineBase], dispatcher: Dispatcher) -> ServerState:
        """Return the state of a server of some of the models."""
        state = make_state(pipelines, dispatcher, _LIMITS, keys=self.keys, loopback=False)
        state.loras, state.loaded = self.lora_folder, True
        return state


def read_keys(path: Path | None) -> ApiKeys:
    """Return the API keys of a file; none lets anyone use the server.

    Raises:
        InputError: As `security.read_keys`; the message names the argument `api_key_file`.
    """
    try:
        return ApiKeys() if path is None else security.read_keys(path)
    except InputError as error:
        raise InputError(str(error).replace("--api-key-file", "api_key_file", 1)) from error


class OpenModel:
    """An open bundle with the application that answers its requests."""

    def __init__(self, pipeline: PipelineBase, state: ServerState) -> None:
        self.pipeline = pipeline
        self._state = state
        self.app: ASGIApp = create_app(self._state)
        self._users, self._closed = 0, False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keep the bundle open while the block runs."""
        with self._changed:
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Wait until nobody uses the bundle, and close its engines."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.wait_for(lambda: self._users == 0)
        self._state.threads.shutdown(wait=False)
        self.pipeline.close()

    def __del__(self) -> None:  # Ray calls it, in a thread, when it needs the place for another model
        self.close()


class BundleReplica:
    """Answers OpenAI's images API over HTTP, and `generate` for handles. `images_app` makes the deployment."""

    def __init__(self, options: ReplicaOptions) -> None:
        """Open no engine; a single bundle is opened before the first request, several when they are first asked for.

        Raises:
            InputError: This machine has another version or another bundle than that of the deployment, or no LoRAs.
        """
        difference = find_difference(options.identity, [path for paths in options.bundles.values() for path in paths])
        if difference is None and options.loras is not None and not options.loras.is_dir():
            difference = f"has no folder {options.loras}, expected that of lora_dir; copy it to every machine"
        if difference is not None:
            raise InputError(f"diffoundry.serving.ray: the replica on {socket.gethostname()} {difference}")
        self._options = options
        self._dispatcher = Dispatcher(max_active=options.active, max_queued=options.queue)
        self._listed = [open_pipeline(paths, **options.engines) for paths in options.bundles.values()]
        self._list = create_app(options.state(self._listed, self._dispatcher))

    async def open_model(self, name: str) -> OpenModel:
        """Open a bundle. The deployment wraps this in Ray's multiplexing, which keeps those used last.

        Raises:
            DiffoundryError: It cannot be opened.
        """
        return await asyncio.get_running_loop().run_in_executor(None, self._open, name)

    def _open(self, name: str) -> OpenModel:
        pipeline = open_pipeline(self._options.bundles[name], **self._options.engines)
        pipeline.open_engines()
        return OpenModel(pipeline, self._options.state([pipeline], self._dispatcher))

    async def generate(self, prompt: Any = None, /, *, loras: Sequence[str] = (), **arguments: Any) -> Any:
        """Generate as a call of the pipeline does. Cancelling the request ends the run within a step.

        Args:
            prompt: As in a call.
            loras: NAME or NAME:SCALE of LoRAs in the folder `lora_dir`.
            arguments: Those of a call.

        Returns:
            The pipeline's output.

        Raises:
            DiffoundryError: As a call; or the bundle is not served, or none is named.
        """
        name = self._name(_asked_model(), "multiplexed_model_id")
        chosen = self._options.lora_folder.choose([loras] if isinstance(loras, str) else loras)
        model = await self.open_model(name)
        with model.used():
            return await self._dispatcher.submit(model.pipeline, {"prompt": prompt, **arguments}, loras=chosen)

    def _name(self, asked: str, parameter: str) -> str:
        """Return the name of the bundle of a request.

        Raises:
            InputError: There is no such bundle, or there are several and none is named.
        """
        names = list(self._options.bundles)
        listed = f"one of {', '.join(names)}" if len(names) > 1 else repr(names[0])
        if not asked and len(names) > 1:
            raise InputError(f"{parameter}: got none, expected {listed}")
        if asked and asked not in names:
            raise InputError(f"{parameter}: got {asked[:100]!r}, expected {listed}.{did_you_mean(asked[:100], names)}")
        return asked or names[0]

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application of the replica, for Ray."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:  # uvicorn takes a bound method for ASGI 2
            await self._answer(scope, receive, send)

        return answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        asked = _asked_model()
        if not self._may_open(scope) or (not asked and len(self._listed) > 1 and "/v1/images/" not in scope["path"]):
            await self._list(scope, receive, send)  # which refuses wrong keys, and opens no bundle
            return
        try:
            name = self._name(asked, _HEADER)
        except InputError as error:
            refusal = ApiError(404 if asked else 400, str(error), param=_HEADER, code="model_not_found")
            await error_response(refusal, scope, receive, send)
            return
        model = await self.open_model(name)
        with model.used():
            await model.app(scope, receive, send)

    def _may_open(self, scope: Scope) -> bool:
        """Return whether a request is one of HTTP with an API key, where one is needed."""
        if scope["type"] != "http":
            return False
        try:
            self._options.keys.owner(Request(scope))
        except ApiError:
            return False
        return True

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open a single bundle before Ray sends requests; at the end cancel what is left, and close."""
        await receive()
        if len(self._listed) == 1:
            await self.open_model(self._name("", _HEADER))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.get_running_loop().run_in_executor(None, self._dispatcher.close)
        for pipeline in self._listed:
            pipeline.close()
        await send({"type": "lifespan.shutdown.complete"})


def _asked_model() -> str:
    """Return the model that the request under way names for Ray; "" for none."""
    from ray import serve  # here, so that the module can be imported without it

    return str(serve.get_multiplexed_model_id())
