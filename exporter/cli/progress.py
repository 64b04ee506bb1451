"""Progress of an export, and the table of its jobs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from diffoundry.exporter.jobs.job import CUT_WEIGHTS
from diffoundry.runtime.bundle.manifest import Manifest
from diffoundry.runtime.cli.console import err, remark, size_text

if TYPE_CHECKING:
    from diffoundry.exporter.jobs.runner import FinishedJob

__all__ = ["jobs_json", "jobs_table", "show_progress", "tell_engine_notes"]


@contextmanager
def show_progress(jobs: int) -> Iterator[Callable[[str, str], None]]:
    """Show the current job and phase on standard error, with a spinner."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    finished = 0
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("starting", total=None)

        def tell(what: str, phase: str) -> None:
            nonlocal finished
            ended = phase in ("done", "kept")
            finished += ended
            place = f"{min(finished + (not ended), jobs)}/{jobs} "
            progress.update(task, description=f"{place}{what}: {phase}")
            if ended:
                progress.console.print(f"{place}{what}: {phase}", markup=False)

        yield tell


def jobs_table(done: "Sequence[FinishedJob]", kept: Sequence[str], manifest: Manifest) -> Table:
    """Make a table of the jobs: seconds, memory, and size in the bundle."""
    table = Table(Column("job", no_wrap=True), "seconds", "slowest phase", "peak memory", "size")
    for label in kept:
        table.add_row(label, "kept", "", "", _size(label, manifest))
    for job in done:
        slowest, seconds = max(job.seconds.items(), key=lambda phase: phase[1], default=("", 0.0))
        total = f"{sum(job.seconds.values()):.1f}"
        table.add_row(job.label, total, f"{slowest} {seconds:.1f}", size_text(job.peak_rss), _size(job.label, manifest))
    return table


def jobs_json(done: "Sequence[FinishedJob]") -> Mapping[str, Any]:
    """Label of a job to its seconds and memory, for programs."""
    return {
        job.label: {"component": job.component, "seconds": dict(job.seconds), "peak_rss_bytes": job.peak_rss}
        for job in done
    }


def tell_engine_notes(manifest: Manifest) -> None:
    """Report engines whose weights were cut to the range of their type, and pending engines once for each reason."""
    for name, component in manifest.components.items():
        for engine in component.engines:
            if CUT_WEIGHTS in engine.metadata:
                remark(
                    f"note: {name}, {engine.target} {engine.precision}: weights were cut to the type's largest number "
                    f"({engine.metadata[CUT_WEIGHTS]}), so images may differ; compare with 'diffoundry verify', or "
                    f"export in fp32 or bf16"
                )
    _tell_pending(manifest)


def _tell_pending(manifest: Manifest) -> None:
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for name, component in manifest.components.items():
        for engine in component.engines:
            if engine.pending is not None:
                reasons.setdefault((engine.target, engine.precision, engine.pending), []).append(name)
    for (target, precision, reason), names in reasons.items():
        remark(f"{target} {precision} is not built yet ({', '.join(names)}): {reason}")


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
