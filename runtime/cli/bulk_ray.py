"""`generate --ray`: processes of a Ray cluster generate the prompts of a bulk; this process writes their files."""

import os
import re
import socket
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffoundry.runtime.cli.bulk import BulkFolder, BulkItem, generate_files, write_item
from diffoundry.runtime.cli.bulk_job import BulkJob
from diffoundry.runtime.cli.console import remark, warn
from diffoundry.runtime.errors import DiffoundryError, InputError, MissingExtraError

__all__ = ["BulkWorker", "check_ray", "generate_with_ray", "plan_workers"]

_MOST_DEATHS = 3
"""Of workers, at one prompt or while they open the bundle; then it is not bad luck."""

_PATIENCE = 10.0
"""Seconds for an address to answer."""

_OBJECT_STORE = 256 * 10**6
"""Bytes of a cluster that is started here; it holds finished images until they are written."""


def check_ray(address: str, values: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse what --ray cannot do, before anything is loaded.

    Args:
        address: As typed.
        values: Options of the command.
        resume: True with --resume.

    Raises:
        InputError: No file of prompts, no --resume, or no address.
        MissingExtraError: Ray is not installed.
    """
    if values["prompts_file"] is None:
        raise InputError("--ray: got no --prompts, expected a file of prompts; pass it, or leave --ray out")
    if not resume:
        raise InputError(
            "--ray: got no --resume, expected it, so that finished images are kept; pass it with -o FOLDER"
        )
    found = re.fullmatch(r"auto|local|(?:\[[0-9a-fA-F:]+\]|[\w.-]+):([0-9]{1,5})", address)
    if found is None or int(found[1] or 0) > 65535:
        raise InputError(
            f"--ray: got {address!r}, expected HOST:PORT of a cluster, auto for the one of this machine, or local to "
            f"start one"
        )
    _import_ray()


class BulkWorker:
    """Generates prompts in a process of Ray. Errors of users are returned as text: Ray's own carry a traceback."""

    def open(self, job: BulkJob, folder: Path, place: str) -> str | None:
        """Load the pipeline.

        Args:
            job: The job.
            folder: As `generate_files`.
            place: Folder from which the command's relative paths lead.

        Returns:
            None, or the error.
        """
        try:
            os.chdir(place)
        except OSError as error:
            return (
                f"--ray: a worker's machine cannot open the folder {place} ({error.strerror}); start the command in a "
                f"folder that every machine of the cluster shares"
            )
        try:
            self._prepared = job.prepare(job.open(), folder)
        except DiffoundryError as error:
            return str(error)
        self._folder = folder
        return None

    def generate(self, item: BulkItem) -> list[bytes] | str:
        """Return the files of a prompt's images, or the error."""
        try:
            return generate_files(self._prepared, item, self._folder)
        except DiffoundryError as error:
            return str(error)


def plan_workers(nodes: Sequence[Mapping[str, Any]], threads: int | None, *, gpu: bool) -> tuple[int, dict[str, float]]:
    """Choose how many workers there are, and what each reserves.

    Args:
        nodes: As `ray.nodes()`.
        threads: --threads: CPUs of a worker. None gives every machine one worker, since engines then use all cores.
        gpu: True if each worker needs a GPU.

    Returns:
        The number of workers, at least 1, and the options of Ray's actor.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [int(one["CPU"]) for one in alive if one.get("CPU", 0) >= 1]
    if gpu:
        return max(sum(int(one.get("GPU", 0)) for one in alive), 1), {"num_cpus": threads or 1, "num_gpus": 1}
    share = threads or min(cpus, default=1)
    return max(sum(one // share for one in cpus) if threads else len(cpus), 1), {"num_cpus": share}


def generate_with_ray(job: BulkJob, folder: BulkFolder, missing: Sequence[int], address: str) -> Iterator[int]:
    """Generate items on a cluster, write their files here, and yield the index of each item once they are written.

    Workers send the bytes of files, so a worker that is killed leaves nothing behind, and another one takes its item.

    Args:
        job: The job.
        folder: The folder.
        missing: Indices of the items.
        address: Of the cluster, as `ray.init` takes it.

    Raises:
        InputError: The cluster cannot be reached, an item does not fit, or it killed several workers.
    """
    ray = _import_ray()
    _connect(ray, address)
    try:
        yield from _Cluster(ray, job, folder).generate(missing)
    finally:
        ray.shutdown()


class _Cluster:
    """The workers of one command."""

    def __init__(self, ray: Any, job: BulkJob, folder: BulkFolder) -> None:
        self._ray, self._folder = ray, folder
        shared = {name: value for name, value in job.settings.items() if name != "prompt"}
        self._given = ray.put(replace(job, settings=shared)), folder.path, str(Path.cwd())
        options = job.engines.get("options")
        gpu = _needs_gpu(job.engines.get("target"), None if options is None else options.device)
        self._count, reserved = plan_workers(ray.nodes(), None if options is None else options.threads, gpu=gpu)
        self._worker = ray.remote(**reserved)(BulkWorker)
        self._running: dict[Any, tuple[Any, int | None]] = {}
        self._deaths: Counter[int | None] = Counter()

    def generate(self, missing: Sequence[int]) -> Iterator[int]:
        """Yield the index of each item once it is written. A worker that has opened takes one item at a time."""
        waiting = deque(missing)
        for _ in range(min(self._count, len(missing))):
            self._start()
        remark(f"{len(self._running)} {'worker' if len(self._running) == 1 else 'workers'} of Ray")
        left = len(missing)
        while left:
            (ready,), _ = self._ray.wait(list(self._running), num_returns=1)
            worker, number = self._running.pop(ready)
            try:
                found = self._ray.get(ready)
            except self._ray.exceptions.RayTaskError:  # a fault of ours: its traceback is the worker's
                raise
            except self._ray.exceptions.RayError as error:
                self._lose(number, error)
                if number is not None:
                    waiting.appendleft(number)
                self._start()
                continue
            if isinstance(found, str):
                raise InputError(found)
            if number is not None:
                write_item(self._folder, self._folder.items[number], found)
                left -= 1
                yield number
            if waiting:
                item = waiting.popleft()
                self._running[worker.generate.remote(self._folder.items[item])] = worker, item

    def _start(self) -> None:
        worker = self._worker.remote()
        self._running[worker.open.remote(*self._given)] = worker, None

    def _lose(self, number: int | None, error: Exception) -> None:
        """Count the death of a worker.

        Raises:
            InputError: There were too many.
        """
        self._deaths[number] += 1
        work = "it opened the bundle" if number is None else f"it generated {self._folder.items[number].files[0]}"
        if self._deaths[number] >= _MOST_DEATHS:
            raise InputError(
                f"--ray: {_MOST_DEATHS} workers died while {work.replace('it ', 'they ', 1)} ({_first_line(error)}); "
                f"finished images are kept. See Ray's logs, then pass a larger --threads for fewer workers, or "
                f"--low-memory"
            )
        warn(f"warning: a worker of Ray died while {work} ({_first_line(error)}); another one does it again")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _needs_gpu(target: str | None, device: str | None) -> bool:
    """Return whether the options name a GPU. Ray hides GPUs from workers that reserve none."""
    return (target or "").startswith("tensorrt") or (device or "").partition(":")[0] in ("cuda", "gpu")


def _import_ray() -> Any:
    """Import Ray.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("'--ray'", error.name or "ray", "ray") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one of this machine, which ends with the command.

    Raises:
        InputError: As said.
    """
    own: dict[str, Any] = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        if address not in ("auto", "local"):  # Ray itself tries a dead address for many minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
        ray.init(address=address, logging_level="WARNING", **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--ray {address}: the cluster cannot be used ({_first_line(error)}); start one with 'ray start --head', "
            f"or pass --ray local"
        ) from error
