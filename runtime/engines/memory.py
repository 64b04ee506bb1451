"""Returns unused memory to the system at once."""

import ctypes
import platform
import sys
from pathlib import Path

__all__ = ["drop_mapped", "free_at_once", "give_back", "trim"]

_MADV_DONTNEED = 4
"""From linux/mman.h: forget the pages. Those of a file come back from it."""

_MADV_PAGEOUT = 21
"""From linux/mman.h, since Linux 5.4: give the pages back, losing nothing."""

_PAGE = 4096

_M_MMAP_THRESHOLD = -3
"""From glibc's malloc.h. Once it is set, the threshold no longer grows with what is freed."""

_LARGE = 4 << 20


def free_at_once() -> None:
    """Let this process return blocks of 4 MiB and more to the system when they are freed, instead of keeping them.

    glibc would keep blocks of up to 32 MiB, of which most weights are. Elsewhere nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def trim() -> None:
    """Return the unused memory of glibc's heap to the system. Elsewhere nothing is done."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def drop_mapped(folder: Path, maps: Path = Path("/proc/self/maps")) -> int:
    """Forget the pages of the files in a folder that this process has mapped and cannot write.

    The system keeps them in its cache, and maps them again where they are read. Elsewhere than on Linux nothing is
    done.

    Args:
        folder: An absolute path without links.
        maps: Linux' list of mappings.

    Returns:
        Bytes of these mappings.
    """
    try:
        lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return 0
    dropped = 0
    for line in lines:
        place, permissions, _offset, _device, _inode, *path = line.split(maxsplit=5)
        if path and "w" not in permissions and Path(path[0]).is_relative_to(folder):
            start, end = (int(part, 16) for part in place.split("-"))
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
            dropped += end - start
    return dropped


def give_back(address: int, size: int) -> None:
    """Let the system take the whole pages in this range. What they hold is read again when it is needed.

    Elsewhere than on Linux nothing is done.

    Args:
        address: Start of the range.
        size: Its bytes.
    """
    if sys.platform != "linux":
        return
    start = -(-address // _PAGE) * _PAGE
    length = address + size - start
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_PAGEOUT)
