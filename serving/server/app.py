"""The application: routes, errors in OpenAI's form, and its start and stop."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from diffoundry.runtime.errors import DiffoundryError, InputError
from diffoundry.serving.server.errors import ApiError
from diffoundry.serving.server.images_api import cancel_job, get_file, get_job, post_images
from diffoundry.serving.server.middleware import AroundRequests
from diffoundry.serving.server.models import Model, find_model
from diffoundry.serving.server.openapi import openapi_document
from diffoundry.serving.server.page_files import PAGE, PageFiles
from diffoundry.serving.server.parameter_table import ENDPOINTS
from diffoundry.serving.server.state import ServerState

__all__ = ["create_app"]

_LOG = logging.getLogger("diffoundry.serving")


def create_app(state: ServerState) -> Starlette:
    """Return the ASGI application of a server."""
    routes = [
        *(Route(f"/v1/images/{name}", post_images, methods=["POST"]) for name in ENDPOINTS),
        Route("/v1/images/files/{key}", get_file),
        Route("/v1/jobs/{job}", get_job),
        Route("/v1/jobs/{job}", cancel_job, methods=["DELETE"]),
        Route("/v1/models", _list_models),
        Route("/v1/models/{model}", _get_model),
        Route("/health", _health),
        Route("/ready", _ready),
        Route("/metrics", _metrics),
        Route("/openapi.json", _openapi),
        *(Route(path, PageFiles(directory=PAGE, html=True), methods=["GET"]) for path in ("/", "/{file}")),
    ]
    middleware = [Middleware(AroundRequests, state=state)]
    if state.origins:
        allowed: dict[str, Any] = {
            "allow_origins": state.origins,
            "allow_methods": ["GET", "POST", "DELETE"],
            "allow_headers": ["Authorization", "Content-Type", "X-Request-Id"],
            "expose_headers": ["X-Request-Id", "Retry-After"],
        }
        middleware.append(Middleware(CORSMiddleware, **allowed))
    handlers: Mapping[Any, Any] = {ApiError: _refuse, HTTPException: _refuse_http, Exception: _fail}
    app = Starlette(
        routes=routes, middleware=middleware, exception_handlers={**handlers, ClientDisconnect: _leave}, lifespan=_life
    )
    app.state.server = state
    return app


@contextlib.asynccontextmanager
async def _life(app: Starlette) -> AsyncIterator[None]:
    """Open the engines while the server already answers; at the end cancel what is left."""
    state: ServerState = app.state.server
    opening = asyncio.create_task(_open_engines(state))
    try:
        yield
    finally:
        state.draining = True
        opening.cancel()
        await asyncio.get_running_loop().run_in_executor(None, state.dispatcher.close)
        counts = state.dispatcher.statistics()
        ended = {"finished": counts.done, "cancelled": counts.cancelled, "failed": counts.failed}
        _LOG.info("stopped", extra={"facts": ended})
        state.threads.shutdown(wait=False, cancel_futures=True)


async def _open_engines(state: ServerState) -> None:
    """Open the engines of every model, so that the first image is as fast as the others."""
    loop = asyncio.get_running_loop()
    for model in state.models.values():
        try:
            await loop.run_in_executor(None, model.pipeline.open_engines)
        except DiffoundryError as error:
            _LOG.error("engines", extra={"facts": {"model": model.name, "error": str(error)}})
            return
        with contextlib.suppress(DiffoundryError):  # the first client that asks gets the error
            await loop.run_in_executor(None, model.describe)
        _LOG.info("opened", extra={"facts": {"model": model.name}})
    state.loaded = True


def _state(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


async def _list_models(request: Request) -> Response:
    state = _state(request)
    state.keys.owner(request)
    models = [await state.in_thread(_describe, state, model) for model in state.models.values()]
    return JSONResponse({"object": "list", "data": models})


async def _get_model(request: Request) -> Response:
    state = _state(request)
    state.keys.owner(request)
    model = find_model(state.models, request.path_params["model"])
    return JSONResponse(await state.in_thread(_describe, state, model))


def _describe(state: ServerState, model: Model) -> dict[str, Any]:
    try:
        loras = sorted(state.loras.names())
    except InputError:  # the folder is gone for now; a request that names one says so
        loras = []
    return {**model.describe(), "loras": loras}


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    state = _state(request)
    status = "stopping" if state.draining else "ready" if state.loaded else "loading"
    return JSONResponse({"status": status}, 200 if status == "ready" else 503)


async def _metrics(request: Request) -> Response:
    state = _state(request)
    state.keys.owner(request)
    return PlainTextResponse(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _openapi(_request: Request) -> Response:
    return JSONResponse(openapi_document())


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.state.log["code"] = error.code
    request.state.log["error"] = error.message if error.status >= 500 else error.param
    headers = error.headers() | ({"Connection": "close"} if error.status in (408, 413, 415) else {})
    return JSONResponse(error.body(), error.status, headers)


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    method = {405: f"{request.method}: this address does not take it", 404: "address: there is nothing here"}
    message = f"{method.get(error.status_code, error.detail)}; GET /openapi.json lists all addresses"
    own = ApiError(error.status_code, message, code="not_found" if error.status_code == 404 else "wrong_request")
    request.state.log["code"] = own.code
    return JSONResponse(own.body(), own.status, error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    _LOG.error("failed", exc_info=error)
    own = ApiError(500, "the server failed; its log says why", code="internal_error")
    request.state.log["code"] = own.code
    return JSONResponse(own.body(), own.status, own.headers() | {"Connection": "close"})  # as uvicorn does next


async def _leave(request: Request, _error: Exception) -> Response:
    """Answer nobody: the client left while it sent its request."""
    request.state.log["code"] = "client_left"
    return Response(status_code=400)
