"""Parses JSON of untrusted files: bounded nesting, and one kind of exception."""

import json
import re
from collections.abc import Callable
from typing import Any

__all__ = ["NestingError", "load_json"]

_DEEPEST = 64
"""Levels of lists and objects; the deepest file that diffusers, transformers or we write has 8."""


_TOO_MANY = "Exceeds the limit"
"""Begin of Python's message for a number of more digits than it converts."""


class NestingError(ValueError):
    """JSON is nested deeper than any file of ours."""


def load_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON.

    Args:
        text: The file.
        pairs: Makes an object of its pairs; None makes a dict.

    Raises:
        ValueError: It is no JSON, nested too deeply, or holds half of a surrogate pair or a number of more than 4,300
            digits.
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise NestingError(f"nested more than {_DEEPEST} levels deep") from error
    except ValueError as error:
        if str(error).startswith(_TOO_MANY):  # Python's own advice is for programmers
            raise ValueError("a number of more than 4,300 digits") from error
        raise
    _check_text(text)
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        children = (child for one in level for child in (one.values() if isinstance(one, dict) else one))
        level = [child for child in children if isinstance(child, dict | list)]
    if level:
        raise NestingError(f"nested more than {_DEEPEST} levels deep")
    return value


def _check_text(text: str | bytes) -> None:
    r"""Refuse half of a surrogate pair, written as an escape such as \ud800: no file name and no terminal takes it.

    Raises:
        ValueError: As said.
    """
    words = text if isinstance(text, str) else text.decode("utf-8", "replace")
    if "\\u" in words and _HALF.search(_PAIR.sub("", words)):
        raise ValueError("half of a surrogate pair")


_PAIR = re.compile(r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
"""A backslash that is escaped itself, or a whole pair."""

_HALF = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}|[\ud800-\udfff]")
