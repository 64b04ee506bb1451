"""Runs the jobs of exports in this process, and traces equal networks once for all bundles of a session."""

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

__all__ = ["share_graphs", "work_here"]


def work_here(job: Any, _progress: Any) -> Any:
    """Run a job in this process, because a process of its own costs seconds."""
    from diffoundry.exporter.jobs.dispatch import run_job

    return run_job(job, lambda _name: contextlib.nullcontext())


def share_graphs(store: Path) -> Callable[[Any, Any], Any]:
    """Return `work_here` with a store of portable graphs.

    Tracing takes most of an export. Many bundles have networks with the same weights: one checkpoint for several
    targets, with and without a safety checker, with ControlNets.

    Args:
        store: Folder for the graphs, which several processes may use.
    """

    def run(job: Any, progress: Any) -> Any:
        from diffoundry.exporter.jobs.job import JobResult, PortableJob

        if not isinstance(job, PortableJob) or job.checkpoint["seed"] is not None:
            return work_here(job, progress)  # random weights are gigabytes
        key = _key(job)
        kept, folder = store / key, Path(job.folder) / job.component
        store.mkdir(exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not kept.is_dir():
                work_here(job, progress)
                shutil.copytree(folder, store / f"{key}.part")
                (store / f"{key}.part").rename(kept)
            else:
                shutil.copytree(kept, folder, dirs_exist_ok=True)
        return JobResult(graph=tuple(f"{job.component}/{path.name}" for path in sorted(kept.iterdir())))

    return run


def _key(job: Any) -> str:
    """Digest of all that a portable graph depends on: the network with its weights, and how it is traced."""
    from diffoundry.exporter.checkpoints.checkpoint import Checkpoint

    checkpoint = Checkpoint.reopen(job.checkpoint)
    network = checkpoint.load(job.component)
    config = network.config if isinstance(network.config, dict) else network.config.to_dict()
    public = sorted((name, repr(value)) for name, value in config.items() if not name.startswith("_"))
    described = checkpoint.component(job.component), job.opset, sorted(job.dims.items()), type(network), public
    digest = hashlib.sha256(repr(described).encode())
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(name.encode())
        digest.update(tensor.numpy(force=True).tobytes())
    return digest.hexdigest()[:16]
