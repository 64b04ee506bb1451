"""Errors of the HTTP server, in OpenAI's form."""

import math
import re
from typing import Any

from diffoundry.runtime.errors import ConfigError, DiffoundryError, InputError

__all__ = ["ApiError", "bad_parameter", "error_body", "from_error"]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request is refused, or failed.

    Attributes:
        status: HTTP status.
        message: A sentence for the client: subject, got, expected, what to do.
        param: Name of the parameter, or None.
        code: A word for programs.
        retry_after: Seconds after which the client may try again; None where trying again does not help.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def headers(self) -> dict[str, str]:
        """Return the headers of the response. OpenAI's clients obey `x-should-retry`."""
        if self.retry_after is not None:
            return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return {"x-should-retry": "false"} if self.status >= 408 else {}

    def body(self) -> dict[str, Any]:
        """Return the JSON of the response."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return error_body(self.message, kind, self.param, self.code)


def error_body(message: str, kind: str, param: str | None, code: str) -> dict[str, Any]:
    """Return OpenAI's JSON of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_parameter(param: str, message: str) -> ApiError:
    """Return the error of a parameter that cannot be used; the message begins with its name."""
    return ApiError(400, f"{param}: {message}", param=param, code="invalid_value")


_NAMES = {"num_images_per_prompt": "n", "batch_size": "n", "height": "size", "width": "size"}
"""Arguments of a pipeline that have another name as parameters."""

_OF_SCHEDULER = re.compile(r"[A-Za-z0-9]+\.set_timesteps\b.*?\b(timesteps|sigmas|num_inference_steps)\b")
"""A message of a scheduler, which names its method and then the argument."""


def from_error(error: DiffoundryError) -> ApiError:
    """Return the error of an HTTP response for one of the runtime: 400 for an argument, 500 for an engine.

    A `ConfigError` is a scheduler that cannot compute with the arguments of this call.
    """
    message = str(error).replace("pass height and width", "pass size")
    if not isinstance(error, InputError | ConfigError):
        return ApiError(500, message, code="engine_error")
    subject, colon, rest = message.partition(":")
    words = [re.sub(r" [0-9]+$", "", word) for word in subject.split(" and ")] if colon else []  # "prompt 1"
    if not words or not all(re.fullmatch(r"[a-z_0-9]+", word) for word in words):
        found = _OF_SCHEDULER.match(message)
        return ApiError(400, message, param=found and found[1], code="invalid_value")
    named = list(dict.fromkeys(_NAMES.get(word, word) for word in words))
    return ApiError(400, f"{' and '.join(named)}:{rest}", param=named[0], code="invalid_value")
