"""Writes files whole or not at all."""

import os
from pathlib import Path

from diffoundry.runtime.errors import BundleError

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 to a neighbour and rename it, so that a reader finds the old text or the new one; makes the folder.

    Raises:
        BundleError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written ({error.strerror}); free some space and run again") from error
