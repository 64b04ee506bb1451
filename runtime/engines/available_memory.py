"""Main memory that this process can still take: the machine's, and the limits of its control groups."""

import os
import re
from pathlib import Path, PurePosixPath

from diffoundry.runtime.engines.resident_memory import peak_rss, resident_bytes
from diffoundry.runtime.errors import InputError

__all__ = ["available_memory", "check_memory", "describe_bytes", "own_memory", "parse_bytes"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

_NO_MACHINE = 2**50
"""Bytes that no machine has, for systems that do not report their memory."""

_UNLIMITED = 2**60
"""A limit above this is none: version 1 of control groups writes the largest multiple of a page."""


def check_memory(needed: int, subject: str, advice: str) -> None:
    """Refuse work that needs more memory than there is, before any of it is allocated.

    Args:
        needed: Bytes, a lower bound.
        subject: Argument and work, such as "height and width: got 64 x 64 pixels for 2 images, which takes".
        advice: The remedy, such as "choose a smaller size".

    Raises:
        InputError: It does not fit.
    """
    available = available_memory()
    if needed > (_NO_MACHINE if available is None else available):
        there = "no machine has" if available is None else f"this machine has {describe_bytes(available)} available"
        raise InputError(f"{subject} at least {describe_bytes(needed)} of memory; {there}; {advice}")


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can still take, or None where the system does not report them.

    Memory that it holds already counts, because it is used again. Swap space counts.

    Args:
        root: Folder of "proc" and "sys", for tests.
    """
    machine = _machine(root)
    if machine is None:
        return _physical()
    own = _fields(root / "proc/self/status").get("VmRSS", 0)
    return min(machine, *_groups(root), _address_space(root)) + own


def own_memory(root: Path = Path("/")) -> tuple[int, int]:
    """Return the bytes that this process holds, and the most that it has held; 0 where the system does not report them.

    Args:
        root: As in `available_memory`.
    """
    status = root / "proc/self/status"
    return resident_bytes(status) or 0, peak_rss(status) or 0


def describe_bytes(count: int) -> str:
    """Return a number of bytes in words, such as "24 GB"; from a million terabytes on "more than 1000000 TB"."""
    if count >= 10**18:
        return "more than 1000000 TB"
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{count} bytes"


def parse_bytes(text: str, name: str) -> int:
    """Return the bytes of a size in words, such as "500MB", "1.2 GB" or "2G".

    Args:
        text: The size.
        name: Argument, for the message.

    Raises:
        InputError: It is no size.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([kmgKMG]?(?:[iI]?[bB])?)", text.strip())
    if found is None:
        raise InputError(f"{name}: got {text!r}, expected a size such as 500MB or 1.2GB")
    return int(float(found[1]) * _UNITS.get(found[2].upper(), _UNITS.get(f"{found[2].upper()}B", 1)))


def _machine(root: Path) -> int | None:
    fields = _fields(root / "proc/meminfo")
    return fields["MemAvailable"] + fields.get("SwapFree", 0) if "MemAvailable" in fields else None


def _physical() -> int | None:
    """Return all main memory, where the system says nothing of the rest."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(root: Path) -> list[int]:
    """Return what each control group of this process leaves free, without its cached files."""
    free = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, entry = line.partition(":")
        kinds, _, path = entry.partition(":")
        if kinds not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / kinds
        names = ("max", "current") if not kinds else ("limit_in_bytes", "usage_in_bytes")
        inner = PurePosixPath(path.lstrip("/"))
        for group in (base / part for part in (inner, *inner.parents)):
            limit, used = (_number(_read(group / f"memory.{name}")) for name in names)
            if limit is not None and used is not None and limit < _UNLIMITED:
                stat = dict(line.split(maxsplit=1) for line in _read(group / "memory.stat").splitlines())
                cached = sum(_number(stat.get(name, "")) or 0 for name in ("inactive_file", "active_file"))
                swap = _number(_read(group / "memory.swap.max")) or 0
                free.append(max(limit - used, 0) + cached + swap)
    return free


def _address_space(root: Path) -> int:
    """Return what `ulimit -v` leaves free."""
    try:
        import resource
    except ImportError:  # no such limits on Windows
        return _UNLIMITED
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return _UNLIMITED
    return max(limit - _fields(root / "proc/self/status").get("VmSize", 0), 0)


def _fields(path: Path) -> dict[str, int]:
    """Read "Name: 123 kB" lines as bytes."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0].rstrip(":"): int(pair[1]) * 1024 for pair in pairs if len(pair) == 3 and pair[2] == "kB"}


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
