"""Words for a path that the system refuses, with the option that it was typed for."""

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["path_sentence"]

_SHOWN = 80
"""Characters of a path that a message shows."""


def path_sentence(error: OSError, arguments: Sequence[str]) -> str | None:
    """Describe an error of the system that no command has caught.

    Args:
        error: The error.
        arguments: Arguments as typed, without the program.

    Returns:
        One sentence, or None for an error without a path.
    """
    if _lacks_folder():
        return "the current folder: got one that was deleted, expected one that exists; change to another"
    if not isinstance(error.filename, (str, os.PathLike)):
        return None
    path = os.fspath(error.filename)
    shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
    option = _option_of(path, arguments)
    return f"{option}{shown}: cannot be opened ({error.strerror}); check the path and the permissions, or use another"


def _lacks_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _option_of(path: str, arguments: Sequence[str]) -> str:
    """Find the option that a path, or a path that contains it, was typed for; empty for an argument and other files."""
    for before, typed in zip(("", *arguments), arguments, strict=False):
        name, equals, value = typed.partition("=")
        if typed.startswith("-") and equals and path.startswith(value) and value:
            return f"{name} "
        if before.startswith("-") and "=" not in before and typed and path.startswith(typed.partition(":")[0] or typed):
            return f"{before} "
    return ""
