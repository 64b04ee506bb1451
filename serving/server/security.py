"""Access to the server: API keys, the names it answers to, and pages of other origins."""

import hashlib
import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request

from diffoundry.runtime.errors import InputError
from diffoundry.serving.server.errors import ApiError

__all__ = ["ApiKeys", "check_origin", "read_keys"]

_SHORTEST = 16
"""Characters of a key."""

_LARGEST_FILE = 10**6
"""Bytes of a file of keys; a device such as /dev/zero has no end."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys that the operator gave out.

    Attributes:
        digests: SHA-256 of each; none where anyone may use the server.
    """

    digests: Sequence[bytes] = ()

    def owner(self, request: Request) -> str:
        """Return a name for the client that sent a request, the same for each request with its key.

        Every key is compared in constant time, and all are, so the time tells nothing.

        Raises:
            ApiError: It has no key, or a wrong one.
        """
        if not self.digests:
            return ""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self.digests]
        if scheme.lower() != "bearer" or not any(matches):
            got = "a wrong key" if key else "none"
            raise ApiError(
                401, f"Authorization: got {got}, expected 'Bearer' and an API key of this server",
                code="invalid_api_key",
            )  # fmt: skip
        return given.hex()[:12]


def read_keys(path: Path) -> ApiKeys:
    """Read a file of keys, one a line; blank lines and those that begin with # are skipped.

    Raises:
        InputError: It cannot be read, is too large, has no key, or a short one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        lines = data.decode("utf-8-sig").splitlines() if len(data) <= _LARGEST_FILE else []
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is no text"
        raise InputError(
            f"--api-key-file {path}: cannot be read ({reason}); pass a text file, one key a line"
        ) from error
    if len(data) > _LARGEST_FILE:
        raise InputError(f"--api-key-file {path}: got more than 1 MB, expected a text file, one key a line")
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InputError(f"--api-key-file {path}: got no key, expected one a line")
    for number, key in enumerate(keys, 1):
        if len(key) < _SHORTEST or not re.fullmatch(r"[!-~]+", key):  # no header carries others
            raise InputError(
                f"--api-key-file {path}: key {number} is too short or has other letters, expected at least {_SHORTEST} "
                f"letters and digits; make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    return ApiKeys([hashlib.sha256(key.encode()).digest() for key in keys])


def check_origin(request: Request, *, loopback: bool, origins: Collection[str]) -> None:
    """Refuse requests that a page of another origin makes in a browser.

    A browser sends forms to any address without asking, and a page can give 127.0.0.1 a name of its own.

    Args:
        request: The request.
        loopback: True if the server listens on this machine alone.
        origins: Those that the operator allows.

    Raises:
        ApiError: As said.
    """
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if loopback and host not in _LOOPBACK:
        raise ApiError(
            403, f"Host: got {host[:100]!r}, expected localhost or 127.0.0.1: this server listens on its own machine",
            code="wrong_host",
        )  # fmt: skip
    origin = request.headers.get("origin")
    if origin is None or origin in origins:
        return
    own = urlsplit(origin)
    if own.scheme not in ("http", "https") or own.netloc != request.headers.get("host"):
        raise ApiError(
            403, f"Origin: got {origin[:100]!r}, which the operator does not allow (--cors-origin)",
            code="wrong_origin",
        )  # fmt: skip
