"""Reads the body of a request, JSON or a form, into values by name. Everything is bounded."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.formats.untrusted_json import load_json
from diffoundry.serving.server.errors import ApiError
from diffoundry.serving.server.limits import Limits

__all__ = ["Body", "BodyBudget", "Upload", "read_body"]

_FIELD_BYTES = 2**20
"""Of one text of a form; Starlette's own bound."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form.

    Attributes:
        name: The last part of the name that the client gave it.
        data: Its bytes.
    """

    name: str
    data: bytes

    def __repr__(self) -> str:
        """Name the file for messages, without its bytes."""
        return f"the file {self.name!r}"


@dataclass(frozen=True, slots=True)
class Body:
    """The values of a request.

    Attributes:
        values: By name: JSON values, where null is a parameter left out; texts, uploads or lists of them of a form.
        typed: True for JSON, whose numbers are numbers.
    """

    values: Mapping[str, Any]
    typed: bool


@dataclass(slots=True)
class BodyBudget:
    """Counts the bytes of all bodies that are being read, so that many clients at once do not fill the memory."""

    limits: Limits
    held: int = field(default=0)

    def take(self, count: int) -> None:
        """Count bytes that arrived.

        Raises:
            ApiError: There are too many.
        """
        if self.held + count > self.limits.held_bytes:
            raise ApiError(
                429, "body: the server is reading many large requests at once; try again later", code="too_many_bytes",
                retry_after=2,
            )  # fmt: skip
        self.held += count

    def release(self, count: int) -> None:
        """Forget bytes that were taken."""
        self.held -= count


async def read_body(request: Request, limits: Limits, budget: BodyBudget) -> Body:
    """Read a body.

    Raises:
        ApiError: It is too large, too slow, malformed, of another type, or has parameters in its address.
        ClientDisconnect: The client is gone.
    """
    _check_address(request)
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    kind = media_type.decode("latin-1").strip().lower()
    readers = {
        "application/json": _read_json,
        "multipart/form-data": _read_multipart,
    }
    if kind not in readers:
        got = shorten(kind) if kind else "none"
        raise ApiError(
            415, f"Content-Type: got {got}, expected application/json or multipart/form-data", code="wrong_content_type"
        )
    _check_encoding(request, options.get(b"charset", b"utf-8").decode("latin-1"))
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise _too_large(limits)
    taken: list[int] = []
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await readers[kind](request, limits, _counted(request, limits, budget, taken))
    except TimeoutError as error:
        raise ApiError(
            408, f"body: it did not arrive within {limits.body_seconds:g} s; send it faster, or a smaller one",
            code="body_too_slow",
        ) from error  # fmt: skip
    finally:
        budget.release(sum(taken))


def _check_address(request: Request) -> None:
    """Refuse parameters in the address, which would be ignored.

    Raises:
        ApiError: As said.
    """
    name = next(iter(request.query_params), None)
    if name is not None:
        raise ApiError(
            400, f"{shorten(name)[1:-1]}: got it in the address, expected it in the body; move it there",
            param=name[:100], code="invalid_value",
        )  # fmt: skip


def _check_encoding(request: Request, charset: str) -> None:
    """Refuse compressed bodies, which could be bombs, and texts that are not UTF-8.

    Raises:
        ApiError: As said.
    """
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise ApiError(
            415, f"Content-Encoding: got {shorten(coding)}, expected none; send the body uncompressed",
            code="wrong_content_type",
        )  # fmt: skip
    if charset.strip().lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ApiError(
            415, f"Content-Type: got the charset {shorten(charset)}, expected utf-8; send the body in UTF-8",
            code="wrong_content_type",
        )  # fmt: skip


def _too_large(limits: Limits) -> ApiError:
    return ApiError(
        413, f"body: got more than {limits.body_bytes:,} bytes, the most that this server takes; scale images down",
        code="body_too_large",
    )  # fmt: skip


async def _counted(
    request: Request, limits: Limits, budget: BodyBudget, taken: list[int]
) -> AsyncGenerator[bytes, None]:
    """Yield the body in chunks; `taken` gets their sizes.

    Raises:
        ApiError: There are too many bytes.
    """
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limits.body_bytes:
            raise _too_large(limits)
        budget.take(len(chunk))
        taken.append(len(chunk))
        yield chunk


async def _read_json(_request: Request, _limits: Limits, stream: AsyncGenerator[bytes, None]) -> Body:
    data = b"".join([chunk async for chunk in stream])
    try:
        values = load_json(data.decode("utf-8-sig"), _object)
    except UnicodeDecodeError as error:
        raise ApiError(
            400, f"body: it is not in UTF-8, from byte {error.start} on; send an object of parameters in UTF-8",
            code="bad_json",
        ) from error  # fmt: skip
    except ValueError as error:
        raise ApiError(400, f"body: it is no JSON ({error}); send an object of parameters", code="bad_json") from error
    if not isinstance(values, dict):
        raise ApiError(
            400, f"body: got {shorten(values)}, expected a JSON object of parameters", code="bad_json"
        )  # fmt: skip
    return Body(values, typed=True)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict of pairs.

    Raises:
        ValueError: A name comes twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shorten(twice)} twice in one object")
    return found


async def _read_multipart(request: Request, limits: Limits, stream: AsyncGenerator[bytes, None]) -> Body:
    parser = MultiPartParser(
        request.headers, stream, max_files=limits.files, max_fields=limits.fields, max_part_size=_FIELD_BYTES
    )
    return await _read_items(parser)


async def _read_items(parser: MultiPartParser) -> Body:
    """Return the fields of a form. Names that end in [] are lists, and so are names that come several times."""
    try:
        form = await parser.parse()
    except ClientDisconnect:
        raise
    except MultiPartException as error:
        raise ApiError(400, f"body: it is no form ({error.message}); send it again", code="bad_form") from error
    except (ValueError, KeyError, UnicodeError) as error:
        raise ApiError(400, "body: it is no form that can be read; send it again", code="bad_form") from error
    found: dict[str, list[Any]] = {}
    lists: set[str] = set()
    try:
        for name, value in form.multi_items():
            plain = name.removesuffix("[]")
            if plain != name:
                lists.add(plain)
            found.setdefault(plain, []).append(await _read_upload(value) if isinstance(value, UploadFile) else value)
    finally:
        await form.close()
    return Body(
        {
            name: values if name in lists or len(values) > 1 else values[0]
            for name, values in found.items()
        },
        typed=False,
    )  # fmt: skip


async def _read_upload(file: UploadFile) -> Upload:
    name = (file.filename or "").replace("\\", "/").rpartition("/")[2]
    plain = "".join(letter for letter in name if letter.isprintable())[:100]
    return Upload(plain or "upload", await file.read())
