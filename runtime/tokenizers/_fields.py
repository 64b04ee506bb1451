"""Bounded reading of a tokenizer's files and typed access to their fields; every fault is a `BundleError`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffoundry.runtime.bundle.manifest import MAX_JSON_BYTES, parse_json
from diffoundry.runtime.errors import BundleError

__all__ = [
    "MAX_LENGTH",
    "MAX_VOCABULARY_BYTES",
    "expect",
    "is_left",
    "read_bounded",
    "read_max_length",
    "read_object",
    "shorten",
]

MAX_LENGTH = 2**16
"""Most ids of a prompt: CLIP has 77, T5 512. A file that asks for far more wants our memory."""

MAX_VOCABULARY_BYTES = 64 * 2**20
"""Most bytes of a tokenizer.json: Qwen's has 11 million, Gemma's 34 million."""

Kind = TypeVar("Kind")

_UNLIMITED = 10**20  # transformers writes 1e30 for "no limit" and compares with this

_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "an integer",
}


def read_bounded(path: Path, most: int = MAX_JSON_BYTES) -> bytes:
    """Read a file's bytes; refuse a file larger than any tokenizer's."""
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); copy or export it again") from error
    if len(data) > most:
        raise BundleError(f"{path}: got more than {most} bytes, expected a tokenizer; do not trust it")
    return data


def read_object(files: Mapping[str, Path], name: str, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read the JSON object in the file `name`, of at most `most` bytes; empty when the file does not exist."""
    if name not in files:
        return {}
    path = files[name]
    return expect(dict, parse_json(read_bounded(path, most), path, most), path, "the file")


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


def read_max_length(config: Mapping[str, Any], path: Path, most: int = MAX_LENGTH) -> int | None:
    """Read the number of ids of a full prompt from tokenizer_config.json: at most `most`, None without a limit."""
    value = config.get("model_max_length", config.get("max_len"))
    if value is None or (isinstance(value, int | float) and value > _UNLIMITED):
        return None
    if type(value) is not int or not 2 <= value <= most:
        raise BundleError(
            f"{path}: model_max_length is {shorten(value)}, expected an integer from 2 to {most}, as 77; "
            f"export the tokenizer again"
        )
    return value


def is_left(config: Mapping[str, Any], key: str, saved: Any, path: Path) -> bool:
    """A side of tokenizer_config.json, else the direction stored in tokenizer.json, else right."""
    stored = saved.get("direction", "Right") if isinstance(saved, dict) else "Right"
    side = config.get(key, str(stored).lower())
    if side not in ("left", "right"):
        raise BundleError(f"{path}: {key} is {shorten(side)}, expected 'left' or 'right'; export the tokenizer again")
    return bool(side == "left")
