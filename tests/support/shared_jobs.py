"""Runs the jobs of exports in this process; traces equal networks, and converts equal tokenizers, once a session."""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

__all__ = ["share_graphs", "share_tokenizers", "work_here"]


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
        folder = Path(job.folder) / job.component
        kept = _made_once(store / key, folder, lambda: work_here(job, progress))
        return JobResult(graph=tuple(f"{job.component}/{path.name}" for path in sorted(kept.iterdir())))

    return run


@contextlib.contextmanager
def share_tokenizers(store: Path) -> Iterator[None]:
    """Convert equal tokenizers once for OpenVINO, which takes a process with transformers.

    Args:
        store: Folder for the converted tokenizers, which several processes may use.
    """
    from diffoundry.targets.openvino.build import target

    convert = target.write_tokenizer

    def write_tokenizer(folder: Path) -> None:
        _made_once(store / _digest_of(folder).hexdigest()[:16], folder, lambda: convert(folder))

    target.write_tokenizer = write_tokenizer
    try:
        yield
    finally:
        target.write_tokenizer = convert


def _made_once(kept: Path, folder: Path, make: Callable[[], Any]) -> Path:
    """Fill a folder with what was kept, or make it and keep it."""
    kept.parent.mkdir(exist_ok=True)
    with FileLock(f"{kept}.lock"):
        if kept.is_dir():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
        else:
            make()
            part = kept.with_name(f"{kept.name}.part")
            shutil.copytree(folder, part)
            part.rename(kept)
    return kept


def _digest_of(folder: Path) -> Any:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest


def _key(job: Any) -> str:
    """Digest of all that a portable graph depends on: the network with its weights, and how it is traced."""
    from diffoundry.exporter.checkpoints.checkpoint import Checkpoint

    checkpoint = Checkpoint.reopen(job.checkpoint)
    network = checkpoint.load(job.component)
    config = getattr(network, "config", {})
    config = config if isinstance(config, dict) else config.to_dict()
    public = sorted((name, repr(value)) for name, value in config.items() if not name.startswith("_"))
    described = checkpoint.component(job.component), job.opset, sorted(job.dims.items()), type(network), public
    digest = hashlib.sha256(repr(described).encode())
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(name.encode())
        digest.update(tensor.numpy(force=True).tobytes())
    return digest.hexdigest()[:16]
