"""Lets two folders change places in one step of the file system."""

import ctypes
import errno
import os
import sys
from pathlib import Path

__all__ = ["exchange"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Linux: fcntl.h, stdio.h of the GNU C library."""

_RENAME_SWAP = 2
"""macOS: stdio.h."""

_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems and kernels that lack the call."""


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places; a reader finds one or the other at each name, whenever it looks.

    Returns:
        False where the system or the file system cannot do it, and nothing was changed.

    Raises:
        OSError: It can, and refused.
    """
    paths = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            code = library.renamex_np(*paths, _RENAME_SWAP)
        else:
            code = library.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    except (AttributeError, TypeError, OSError):  # no such function; Windows has no library of this name
        return False
    number = ctypes.get_errno()
    if code == 0:
        return True
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), os.fspath(other))
