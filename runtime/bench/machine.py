"""Describes the machine of a benchmark: processor, memory, system, versions."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from diffoundry.runtime.engines.resident_memory import peak_rss

__all__ = ["Machine", "machine_facts", "peak_rss", "thread_times"]

_FEATURES = (
    # x86
    "sse4_2", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    # Arm
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip
"""The instruction sets that decide how fast a network runs, in the spelling of /proc/cpuinfo."""

_LIBRARIES = ("numpy", "pillow", "tokenizers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The machine and its software.

    Attributes:
        cpu: Model of the processor as the system names it.
        cores: Logical processors that this process may use.
        features: Relevant instruction sets that the processor reports; empty where the system hides them.
        memory: Bytes of main memory, or None where the system does not report it.
        system: Operating system, its release and architecture.
        load_average: Mean number of running processes over the minute before the measurement, or None.
        python: Version of Python.
        libraries: Version of each library the runtime itself uses.
    """

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory: int | None
    system: str
    load_average: float | None
    python: str
    libraries: Mapping[str, str]


def machine_facts(cpuinfo: Path = Path("/proc/cpuinfo"), board: Path = Path("/proc/device-tree/model")) -> Machine:
    """Describe this machine.

    Args:
        cpuinfo: Linux' list of processors; another system has none.
        board: Name of an Arm board, where there is one: Arm's cpuinfo names no model.
    """
    cpu_text = _read(cpuinfo)
    named = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", cpu_text, re.MULTILINE)
    cpu = named.group(1).strip() if named else _read(board).strip("\0 \n")
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpu_text, re.MULTILINE)
    reported = set(flags.group(1).split()) if flags else set()
    return Machine(
        cpu=cpu or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        features=tuple(name for name in _FEATURES if name in reported),
        memory=_memory(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        libraries={name: found for name in _LIBRARIES if (found := _version(name))},
    )


def thread_times(tasks: Path = Path("/proc/self/task")) -> tuple[int, int] | None:
    """Nanoseconds that the threads of this process have run, and that they have waited for a processor.

    None where the system does not report it. Threads that have ended are not counted.
    Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
    """
    fields = [_read(thread / "schedstat").split() for thread in tasks.iterdir()] if tasks.is_dir() else []
    known = [(int(entry[0]), int(entry[1])) for entry in fields if len(entry) == 3]
    return (sum(ran for ran, _ in known), sum(waited for _, waited in known)) if known else None


def _memory() -> int | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
