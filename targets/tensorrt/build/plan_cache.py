"""Caches built engines by a digest of everything that a build depends on; two builds never give the same bytes."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from diffoundry.runtime.bundle.atomic_write import sync_file, write_text
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.targets.tensorrt.build.job import BuildJob

__all__ = ["PlanCache", "plan_key"]

_LARGEST = 32 << 30
"""Bytes. When there are more, those that were not used for the longest time go."""


def plan_key(job: BuildJob, data: Iterable[Path], version: str, gpu: str) -> str:
    """Return the cache key of a plan: a hexadecimal SHA-256 of the graph, its data, the library and the whole job.

    Args:
        job: Its graph is read; where it lies and where the plan goes makes no difference.
        data: The graph's external data.
        version: Of the library.
        gpu: The GPU that it is built on, or "" where it is built for others.
    """
    settled = replace(job, graph="", plan="", timing_cache=None)
    parts = {
        "job": to_json(settled),
        "graph": [sha256_of(path) for path in (Path(job.graph), *data)],
        "version": version,
        "gpu": gpu,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class PlanCache:
    """A folder of plans, each with the metadata of its build; safe to share between processes."""

    def __init__(self, folder: Path, largest: int = _LARGEST) -> None:
        self.folder = folder
        self._largest = largest

    def fetch(self, key: str, plan: Path, build: Callable[[], Mapping[str, Any]]) -> tuple[Mapping[str, Any], bool]:
        """Copy the plan under `key` to `plan`, or build it there and keep a copy. One process builds a plan.

        Args:
            key: From `plan_key`.
            plan: Path of the plan.
            build: Writes it there and returns the metadata of the build.

        Returns:
            The metadata, and whether the plan was there already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        kept, notes = self.folder / f"{key}.plan", self.folder / f"{key}.json"
        with FileLock(self.folder / f"{key}.lock"):
            known = _read_notes(notes)
            if known is not None and kept.is_file():
                shutil.copyfile(kept, plan)
                os.utime(notes)
                return known, True
            metadata = build()
            beside = kept.with_suffix(".new")
            shutil.copyfile(plan, beside)
            sync_file(beside)
            beside.replace(kept)
            write_text(notes, json.dumps(to_json(metadata)))  # last: where it is, the plan is whole
        self._shrink(keep=key)
        return metadata, False

    def _shrink(self, keep: str) -> None:
        """Drop the plans used least recently until the rest fits."""
        with FileLock(self.folder / "shrink.lock"):
            notes = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
            plans = [path.with_suffix(".plan") for path in notes if path.with_suffix(".plan").is_file()]
            total = sum(path.stat().st_size for path in plans)
            for plan in plans:
                if total <= self._largest or plan.stem == keep:
                    continue
                total -= plan.stat().st_size
                plan.with_suffix(".json").unlink()
                plan.unlink()


def _read_notes(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a build, or None where there is none or a loss of power has damaged it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
