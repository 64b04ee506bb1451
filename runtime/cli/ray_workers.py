"""Processes of a Ray cluster that open a bundle once and then do one piece of work at a time, for `--ray`."""

import os
import pickle
import re
import socket
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from diffoundry.runtime.bundle.identity import find_difference, identify
from diffoundry.runtime.cli.console import remark, warn
from diffoundry.runtime.errors import DiffoundryError, InputError, MissingExtraError

__all__ = ["RayWorker", "RayWorkers", "check_address", "plan_workers"]

_MOST_DEATHS = 3
"""Of workers, at one piece of work or while they open the bundle; then it is not bad luck."""

_PATIENCE = 10.0
"""Seconds for an address to answer."""

_OBJECT_STORE = 256 * 10**6
"""Bytes of a cluster that is started here; it holds results until they are read."""


def check_address(address: str) -> None:
    """Refuse what is no address of a cluster, before anything is loaded.

    Args:
        address: As typed.

    Raises:
        InputError: As said.
        MissingExtraError: Ray is not installed.
    """
    found = re.fullmatch(r"auto|local|(?:\[[0-9a-fA-F:]+\]|[\w.-]+):([0-9]{1,5})", address)
    if found is None or int(found[1] or 0) > 65535:
        raise InputError(
            f"--ray: got {address!r}, expected HOST:PORT of a cluster, auto for the one of this machine, or local to "
            f"start one"
        )
    _import_ray()


class RayWorker(ABC):
    """A process of Ray. Errors of users are returned as text: Ray's own carry a traceback."""

    def open(self, identity: Mapping[str, str], bundles: Sequence[Path], opening: bytes, place: str) -> str | None:
        """Check that this machine has the command's version and bundles, and prepare for the work.

        Args:
            identity: As `identify` returned it to the command.
            bundles: The bundles.
            opening: Argument of `prepare`, pickled, so that another version is noticed before they are read.
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
        difference = find_difference(identity, bundles)
        if difference is not None:
            return f"--ray: the worker on {socket.gethostname()} {difference}"
        try:
            self.prepare(pickle.loads(opening))  # noqa: S301  # the command's own, over Ray, which pickles too
        except DiffoundryError as error:
            return str(error)
        return None

    @abstractmethod
    def prepare(self, opening: Any) -> None:
        """Load what the work needs.

        Raises:
            DiffoundryError: It does not fit.
        """

    @abstractmethod
    def work(self, item: Any) -> Any:
        """Do one piece of work; a text is the error of a user."""


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


class RayWorkers:
    """The workers of one command. A context manager, which ends them and leaves the cluster."""

    def __init__(
        self,
        address: str,
        worker: type[RayWorker],
        bundles: Sequence[Path],
        opening: Any,
        engines: Mapping[str, Any],
    ) -> None:
        """Connect to the cluster; the first work starts workers.

        Args:
            address: Of the cluster, as `check_address` takes it.
            worker: Its `prepare` gets `opening`.
            bundles: Each machine has to hold the same ones.
            opening: Can be pickled.
            engines: Keyword arguments of `load`, which say what a worker reserves.

        Raises:
            InputError: The cluster cannot be reached.
        """
        self._ray = ray = _import_ray()
        options = engines.get("options")
        self._known = identify(bundles), tuple(bundles)
        _connect(ray, address)
        self._given = ray.put(pickle.dumps(opening))
        gpu = _needs_gpu(engines.get("target"), None if options is None else options.device)
        self.count, reserved = plan_workers(ray.nodes(), None if options is None else options.threads, gpu=gpu)
        self._worker = ray.remote(**reserved)(worker)
        self._running: dict[Any, tuple[Any, int | None]] = {}
        self._idle: list[Any] = []
        self._deaths: Counter[int | None] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._ray.shutdown()

    def work(self, items: Sequence[Any], describe: Callable[[Any], str]) -> Iterator[tuple[int, Any]]:
        """Do each piece of work, and yield its index and result as it ends. The workers stay for other work.

        A worker that is killed leaves nothing behind, and another one does its work.

        Args:
            items: The pieces.
            describe: Says of one what it was doing: "it generated a.png".

        Raises:
            InputError: A worker cannot open the bundle, a piece of work is refused, or it killed several workers.
        """
        self._deaths = Counter()
        waiting, left = deque(range(len(items))), len(items)
        while self._idle and waiting:
            self._give(self._idle.pop(), items, waiting)
        started = min(self.count - len(self._running), len(waiting))
        for _ in range(started):
            self._start()
        if started > 0:
            remark(f"{started} {'worker' if started == 1 else 'workers'} of Ray")
        while left:
            (ready,), _ = self._ray.wait(list(self._running), num_returns=1)
            worker, number = self._running.pop(ready)
            try:
                found = self._ray.get(ready)
            except self._ray.exceptions.RayTaskError:  # a fault of ours: its traceback is the worker's
                raise
            except self._ray.exceptions.RayError as error:
                self._lose(number, "it opened the bundle" if number is None else describe(items[number]), error)
                if number is not None:
                    waiting.appendleft(number)
                self._start()
                continue
            if isinstance(found, str):
                raise InputError(found)
            if number is not None:
                left -= 1
                yield number, found
            self._give(worker, items, waiting)

    def _give(self, worker: Any, items: Sequence[Any], waiting: deque[int]) -> None:
        if not waiting:
            self._idle.append(worker)
            return
        number = waiting.popleft()
        self._running[worker.work.remote(items[number])] = worker, number

    def _start(self) -> None:
        identity, bundles = self._known
        worker = self._worker.remote()
        self._running[worker.open.remote(identity, bundles, self._given, str(Path.cwd()))] = worker, None

    def _lose(self, number: int | None, work: str, error: Exception) -> None:
        """Count the death of a worker.

        Raises:
            InputError: There were too many.
        """
        self._deaths[number] += 1
        if self._deaths[number] >= _MOST_DEATHS:
            raise InputError(
                f"--ray: {_MOST_DEATHS} workers died while {work.replace('it ', 'they ', 1)} ({_first_line(error)}); "
                f"what is finished is kept. See Ray's logs, then pass a larger --threads for fewer workers, or "
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
    except Exception as error:  # Ray's own are of every kind: a node that does not start in time is a plain one
        raise InputError(
            f"--ray {address}: the cluster cannot be used ({_first_line(error)}); start one with 'ray start --head', "
            f"or pass --ray local"
        ) from error
