"""Returns unused memory to the system at once."""

import ctypes
import platform
import sys

__all__ = ["free_at_once", "give_back"]

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
