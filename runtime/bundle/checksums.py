"""SHA-256 of files: of the whole, and for large files of parts that several cores check in parallel."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from diffoundry.runtime.bundle.specs import FileSpec

__all__ = ["PART_BYTES", "changed", "describe_file", "sha256_of"]

PART_BYTES = 64 << 20
"""Size of a part; a file that is not larger has no parts."""

_READ = 1 << 18


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal, read in pieces."""
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_file(path: Path) -> FileSpec:
    """Return size and sums of a file."""
    return FileSpec(size=path.stat().st_size, sha256=sha256_of(path), parts=_part_sums(path))


def changed(path: Path, spec: FileSpec) -> str | None:
    """Return the difference of a file to its spec in words, or None; the size must have been checked before."""
    if spec.parts:
        return None if _part_sums(path) == tuple(spec.parts) else "other SHA-256 sums of its parts"
    found = sha256_of(path)
    return None if found == spec.sha256 else f"SHA-256 {found[:16]}..., expected {spec.sha256[:16]}..."


def _part_sums(path: Path) -> tuple[str, ...]:
    starts: Sequence[int] = range(0, path.stat().st_size, PART_BYTES)
    if len(starts) < 2:  # the sum of the whole is enough
        return ()
    with ThreadPoolExecutor(max_workers=min(len(starts), os.cpu_count() or 1)) as pool:
        return tuple(pool.map(lambda start: _part_sum(path, start), starts))


def _part_sum(path: Path, start: int) -> str:
    digest, left, buffer = hashlib.sha256(), PART_BYTES, memoryview(bytearray(_READ))
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        while left and (count := stream.readinto(buffer[: min(left, _READ)])):
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()
