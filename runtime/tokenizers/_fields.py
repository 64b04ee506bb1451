"""Bounded reading of a tokenizer's files and typed access to their fields; every fault is a `BundleError`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffoundry.runtime.bundle.manifest import MAX_JSON_BYTES, parse_json
from diffoundry.runtime.errors import BundleError

__all__ = ["expect", "read_bounded", "read_object", "shorten"]

Kind = TypeVar("Kind")

_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "an integer",
}


def read_bounded(path: Path) -> bytes:
    """Read a file's bytes; refuse a file larger than any CLIP tokenizer's."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); copy or export it again") from error
    if len(data) > MAX_JSON_BYTES:
        raise BundleError(f"{path}: got more than {MAX_JSON_BYTES} bytes, expected a CLIP tokenizer; do not trust it")
    return data


def read_object(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    """Read the JSON object in the file `name`; empty when the file does not exist."""
    if name not in files:
        return {}
    path = files[name]
    return expect(dict, parse_json(read_bounded(path), path), path, "the file")


def expect(kind: type[Kind], value: Any, path: Path, where: str) -> Kind:
    """Return `value` if its type is exactly `kind`, else raise."""
    if type(value) is not kind:
        raise BundleError(
            f"{path}: {where} is {shorten(value)}, expected {_NAMES[kind]}; copy or export the tokenizer again"
        )
    return value


def shorten(value: Any) -> str:
    """Format as `repr` for messages, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
