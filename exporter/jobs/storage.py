"""Sentences for what a file system refuses."""

import errno
import os
import re
from pathlib import Path

__all__ = ["storage_sentence"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_CUT = re.compile(r"\d+ requested and \d+ written")
"""NumPy's `tofile`, whose OSError has no number."""


def storage_sentence(error: OSError, what: str, where: str | os.PathLike[str]) -> str:
    """Return the sentence for an error of writing: a full disk, a read-only folder, or the system's own words.

    Args:
        error: The error.
        what: Job or option, the first word of the sentence.
        where: The folder, for errors that name no file.
    """
    place = Path(error.filename) if isinstance(error.filename, str) else Path(where)
    if error.errno in _FULL or (error.errno is None and _CUT.search(str(error))):
        reason = f" ({error.strerror})" if error.strerror else ""
        return (
            f"{what}: no space left while writing {place}{reason}; finished jobs are kept, free some space and run the "
            f"same command again"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"{what}: {place} cannot be written ({error.strerror}); make its folder writable, or copy the bundle to "
            f"one that is"
        )
    return f"{what}: {place}: {error.strerror or error}"
