"""Around every request: the check of its origin, headers of the answer, a line in the log, and numbers."""

import asyncio
import logging
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffoundry.serving.server.errors import ApiError
from diffoundry.serving.server.security import check_origin
from diffoundry.serving.server.state import ServerState

__all__ = ["AroundRequests", "error_response"]

_LOG = logging.getLogger("diffoundry.serving")

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
)


_ALWAYS_ANSWERED = ("/health", "/ready", "/metrics")
"""Paths that are answered beyond the limit of connections, so that a busy server is not taken for a dead one."""


async def error_response(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error in OpenAI's form; one of too many connections closes its own."""
    from starlette.responses import JSONResponse

    closing = {"Connection": "close"} if error.code == "too_many_connections" else {}
    await JSONResponse(error.body(), error.status, error.headers() | closing)(scope, receive, send)


class AroundRequests:
    """Middleware of the whole application."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        log: dict[str, Any] = {}
        scope.setdefault("state", {})["log"] = log
        seen: dict[str, int] = {}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                _add_headers(message, log)
            await send(message)

        try:
            check_origin(Request(scope), loopback=self._state.loopback, origins=self._state.origins)
            self._check_connections(scope["path"])
        except ApiError as error:
            log["code"] = error.code
            await error_response(error, scope, receive, watched)
        else:
            await self._handle(scope, receive, watched, log, seen)
        finally:
            self._note(scope, seen.get("status", 499), time.monotonic() - started, log)

    def _check_connections(self, path: str) -> None:
        """Refuse requests while too many connections are open.

        Raises:
            ApiError: As said.
        """
        count, most = len(self._state.connections), self._state.limits.connections
        if count > most and path not in _ALWAYS_ANSWERED:
            raise ApiError(
                503, f"connections: {count:,} are open, expected at most {most:,} (--max-connections); try again later",
                code="too_many_connections", retry_after=2,
            )  # fmt: skip

    async def _handle(
        self, scope: Scope, receive: Receive, send: Send, log: MutableMapping[str, Any], seen: Mapping[str, int]
    ) -> None:
        """Run the application; a stream that the end of the server cancels ends as others do."""
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._state.draining or "status" not in seen:
                raise
            log["code"] = "stopping"
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _note(self, scope: Scope, status: int, seconds: float, log: MutableMapping[str, Any]) -> None:
        """Write a line and count. Prompts and keys are never logged."""
        path = _route_of(scope)
        self._state.metrics.count_request(path, _method(scope), status, seconds)
        if "code" in log:
            self._state.metrics.count_error(str(log["code"]))
        client = scope.get("client")
        facts = {
            "method": _method(scope), "path": path, "status": status, "seconds": round(seconds, 4),
            "client": client[0] if client else None, **log,
        }  # fmt: skip
        _LOG.info("request", extra={"facts": facts})


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")
    return scope["method"] if scope["method"] in known else "other"


def _route_of(scope: Scope) -> str:
    """Return the path of the route that answered, with names for its parts; "other" where none did."""
    return str(getattr(scope.get("route"), "path", "other"))


def _add_headers(message: Message, log: MutableMapping[str, Any]) -> None:
    headers = list(message.get("headers", []))
    present = {name.lower() for name, _ in headers}
    headers += [pair for pair in _HEADERS if pair[0] not in present]
    if "id" in log and b"x-request-id" not in present:
        headers.append((b"x-request-id", str(log["id"]).encode()))
    message["headers"] = headers
