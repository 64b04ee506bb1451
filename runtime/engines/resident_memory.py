"""Memory that this process holds, and its peak. None where the system does not report it."""

import re
import sys
from pathlib import Path

__all__ = ["forget_peak", "peak_rss", "resident_bytes"]

_STATUS = Path("/proc/self/status")

_PEAK_ONLY = "5"
"""From Linux, Documentation/filesystems/proc.rst, /proc/<pid>/clear_refs: reset the peak of resident memory."""


def resident_bytes(status: Path = _STATUS) -> int | None:
    """Return the resident memory of this process in bytes, mapped files included."""
    return _field(status, "VmRSS")


def peak_rss(status: Path = _STATUS) -> int | None:
    """Return the peak resident memory of this process in bytes, since its start or `forget_peak`.

    On Linux VmHWM, because getrusage's figure may be that of the parent process.
    """
    peak = _field(status, "VmHWM")
    if peak is None and sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak


def forget_peak(clear: Path = Path("/proc/self/clear_refs")) -> bool:
    """Let the peak begin again with what is resident now; False where the system cannot."""
    try:
        clear.write_text(_PEAK_ONLY, encoding="ascii")
    except OSError:
        return False
    return True


def _field(status: Path, name: str) -> int | None:
    try:
        text = status.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
