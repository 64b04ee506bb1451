"""Parses JSON of untrusted files: bounded nesting, and one kind of exception."""

import json
from collections.abc import Callable
from typing import Any

__all__ = ["load_json"]

_DEEPEST = 64
"""Levels of lists and objects; the deepest file that diffusers, transformers or we write has 8."""


def load_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON.

    Args:
        text: The file.
        pairs: Makes an object of its pairs; None makes a dict.

    Raises:
        ValueError: It is no JSON, nested too deeply, or holds a number of more than 4,300 digits.
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        children = (child for one in level for child in (one.values() if isinstance(one, dict) else one))
        level = [child for child in children if isinstance(child, dict | list)]
    if level:
        raise ValueError(_TOO_DEEP)
    return value


_TOO_DEEP = f"nested more than {_DEEPEST} levels deep"
