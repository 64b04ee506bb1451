"""Sentences for what a file system refuses."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["is_storage_error", "storage_sentence"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

_WORDS = re.compile(r"\d+ requested and \d+ written|iostream error|No space left|Disk quota exceeded")
"""Of errors without a number: NumPy's `tofile`, C++ streams as OpenVINO uses them, and libraries that quote."""

_NOTHING = 1 << 20
"""Bytes; where fewer are free, the disk is full."""


def is_storage_error(error: BaseException, where: str | os.PathLike[str]) -> bool:
    """Return True for the system's refusal to write, however a library words it.

    Args:
        error: Any exception.
        where: The folder that was written to.
    """
    return isinstance(error, OSError) or _is_full(error, where)


def storage_sentence(error: BaseException, what: str, where: str | os.PathLike[str]) -> str:
    """Return the sentence for an error of writing: a full disk, a read-only folder, or the system's own words.

    Args:
        error: One that `is_storage_error` holds for.
        what: Job or option, the first word of the sentence.
        where: The folder, for errors that name no file.
    """
    named, words = getattr(error, "filename", None), getattr(error, "strerror", None)
    place = Path(named) if isinstance(named, str) else Path(where)
    if _is_full(error, where):
        return (
            f"{what}: no space left while writing {place}{f' ({words})' if words else ''}; finished jobs are "
            f"kept, free some space and run the same command again"
        )
    if isinstance(error, OSError) and error.errno in _READ_ONLY:
        return f"{what}: {place} cannot be written ({words}); make its folder writable, or use another one"
    return f"{what}: {place}: {words or error}"


def _is_full(error: BaseException, where: str | os.PathLike[str]) -> bool:
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno is not None:
            if one.errno in _FULL:
                return True
        elif _WORDS.search(str(one)):
            return True
    try:
        return shutil.disk_usage(where).free < _NOTHING
    except OSError:
        return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
