"""Progress of an export, and the table of its jobs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from diffoundry.exporter.jobs.job import CUT_WEIGHTS
from diffoundry.runtime.bundle.manifest import Manifest
from diffoundry.runtime.cli.console import make_table, remark, size_text, warn
from diffoundry.runtime.cli.inspect import obstacles, partition_notes
from diffoundry.runtime.cli.status_line import StatusLine

if TYPE_CHECKING:
    from diffoundry.exporter.jobs.runner import FinishedJob

__all__ = ["jobs_json", "jobs_table", "show_progress", "tell_engine_notes"]

_ENDED = ("done", "kept")
"""Last words of a job: it was done, or an interrupted run has done it before."""


_STEPS = {
    "load": "loading weights",
    "trace": "tracing",
    "passes": "optimizing the graph",
    "save": "writing the graph",
    "convert": "converting the precision",
    "lower": "compiling",
    "calibrate": "calibrating",
    "complete": "writing the files of its tools",
    "sums": "computing checksums",
    "kept": "done before",
}
"""Steps of a job, for users."""


@contextmanager
def show_progress(jobs: int, command: str, folder: Path) -> Iterator[Callable[[str, str], None]]:
    """Show the current job and its step on standard error; finished jobs stay.

    Args:
        jobs: Number of jobs.
        command: Command that continues after an interruption, such as "export".
        folder: Folder that keeps the finished jobs until then.
    """
    finished = 0
    with StatusLine() as line:

        def tell(what: str, step: str) -> None:
            nonlocal finished
            ended = step in _ENDED
            finished += ended
            text = f"{min(finished + (not ended), jobs)}/{jobs} {what}: {_STEPS.get(step, step)}"
            if ended:
                line.keep(text)
            else:
                line.update(text)

        try:
            yield tell
        except KeyboardInterrupt:
            again = f"run the same 'diffoundry {command}' again to continue"
            warn(f"{finished} of {jobs} jobs are kept in {folder}; {again}")
            raise


def jobs_table(done: "Sequence[FinishedJob]", kept: Sequence[str], manifest: Manifest) -> Table:
    """Make a table of the jobs: seconds, memory, and size in the bundle, a line each."""
    table = make_table("job", "seconds", "peak memory", "size", numbers=("seconds", "peak memory", "size"))
    for label in kept:
        table.add_row(label, "kept", "", _size(label, manifest))
    for job in done:
        seconds = f"{sum(job.seconds.values()):.1f}"
        table.add_row(job.label, seconds, size_text(job.peak_rss), _size(job.label, manifest))
    return table


def jobs_json(done: "Sequence[FinishedJob]") -> Mapping[str, Any]:
    """Label of a job to its seconds and memory, for programs."""
    return {
        job.label: {"component": job.component, "seconds": dict(job.seconds), "peak_rss_bytes": job.peak_rss}
        for job in done
    }


def tell_engine_notes(manifest: Manifest) -> None:
    """Report engines whose weights were cut to the range of their type, that wait to be built, or cannot run here."""
    for name, component in manifest.components.items():
        for engine in component.engines:
            if CUT_WEIGHTS in engine.metadata:
                remark(
                    f"note: {name}, {engine.target} {engine.precision}: weights were cut to the type's largest number "
                    f"({engine.metadata[CUT_WEIGHTS]}), so images may differ; compare with 'diffoundry verify', or "
                    f"export in fp32 or bf16"
                )
    for precision, choice in manifest.recipe.quantization.items():
        if choice.psnr is None:
            remark(
                f"note: {precision}: every layer that can be quantized is, and no image was measured; compare with "
                f"'diffoundry verify'"
            )
    for line in partition_notes(manifest):
        remark(line)
    _tell_obstacles(manifest)


def _tell_obstacles(manifest: Manifest) -> None:
    """Report the engines that wait to be built, and those that cannot run on this machine, with the reasons."""
    pending: dict[tuple[str, str], list[str]] = {}
    for name, component in manifest.components.items():
        for engine in component.engines:
            if engine.pending is not None:
                pending.setdefault((f"{engine.target} {engine.precision}", engine.pending), []).append(name)
    for (label, reason), names in pending.items():
        remark(f"{label} is not built yet ({', '.join(names)}): {reason}")
    waiting = {label for label, _ in pending}
    for label, reason in obstacles(manifest).items():
        if label not in waiting:
            remark(f"{label} cannot run on this machine: {reason}")


def _size(label: str, manifest: Manifest) -> str:
    """Size of the files of a job: a portable graph, or an engine with the files that it shares with others."""
    component, _, engine = label.partition(", ")
    if component not in manifest.components:
        return ""
    spec = manifest.components[component]
    files = {
        file for built in spec.engines for file in built.files if f"{built.target} {built.precision}" == engine
    } or set(spec.graph)
    return size_text(sum(manifest.files[file].size for file in files))
