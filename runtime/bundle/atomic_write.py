"""Writes files whole or not at all, and makes them last over a loss of power."""

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from diffoundry.runtime.errors import BundleError

__all__ = ["is_draft", "sync_file", "sync_folders", "write_text"]

_DRAFT = ".new"
"""Ending of the hidden file that is renamed when it is whole."""


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 to a new neighbour and rename it, so that a reader finds the old text or the new one.

    The neighbour has a random name and is never opened through a link. The text is on the disk before the rename.
    Makes the folder.

    Raises:
        BundleError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_DRAFT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_new(draft, text.encode("utf-8"))
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
        sync_folders([path.parent])
    except OSError as error:
        raise BundleError(f"{path}: cannot be written ({error.strerror}); free some space and run again") from error


def is_draft(name: str) -> bool:
    """Return True for the name of a file that an interrupted `write_text` leaves."""
    return name.startswith(".") and name.endswith(_DRAFT)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(folders: Iterable[Path]) -> None:
    """Wait until the names in folders are on the disk. Windows has no such call."""
    if os.name == "nt":
        return
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist yet; a link of this name is refused by the system."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    with open(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
