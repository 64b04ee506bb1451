"""Reads the JSON files of a checkpoint, which may be damaged or something else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.recognize import describe_link, recognize
from diffoundry.runtime.formats.untrusted_json import load_json

__all__ = ["check_readable", "is_number_list", "name_some", "read_json"]

_LISTED = 5
"""Number of names listed in a message."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: The file is missing, or holds something else.
    """
    try:
        value = load_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        kind = recognize(path)
        why = kind or f"is no valid JSON ({error}); the file is damaged, download it again"
        raise CheckpointError(f"{path}: {why}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: got {type(value).__name__}, expected a JSON object; the file is damaged")
    return value


def is_number_list(entry: object) -> bool:
    """Return whether an entry of model_index.json is a list of numbers, and so an option of the pipeline, no part."""
    return isinstance(entry, list) and bool(entry) and all(type(one) in (int, float) for one in entry)


def check_readable(path: Path) -> None:
    """Check that a file can be opened.

    Raises:
        CheckpointError: It is missing, a link to nowhere, a folder, or may not be read.
    """
    try:
        with path.open("rb") as stream:
            stream.read(1)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    link = describe_link(path)
    why = link or f"cannot be read ({error.strerror}); the checkpoint is incomplete, download it again"
    return CheckpointError(f"{path}: {why}")


def name_some(names: Sequence[str]) -> str:
    """List the first of many names, for messages: "a, b and 3 more"."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    some = (name[:100] if name.isprintable() else repr(name[:100]) for name in names[:_LISTED])
    return ", ".join(some) + more
