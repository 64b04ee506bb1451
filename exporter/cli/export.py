"""`diffoundry export`: compiles a checkpoint into a bundle."""

import os
import time
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from diffoundry.exporter.build import BuildReport, ExportRequest, build
from diffoundry.exporter.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.recipe import parse_dim
from diffoundry.runtime.cli.console import err, out, print_json, size_text
from diffoundry.runtime.cli.options import json_option
from diffoundry.runtime.plugins import find_plugin
from diffoundry.runtime.specs import PRECISIONS

__all__ = ["command"]


@click.command("export")
@click.option("--model", required=True, help="A diffusers folder, a hub id, or an alias: emoji, sd14, sd15, sd21.")
@click.option("--target", required=True, help="What to compile for; see 'diffoundry targets'.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option(
    "--batch", help="Rows of one engine call (a guided picture takes two): 2, or a range 1..8.  [default: any]"
)
@click.option("--height", help="Pixels: 512, or a range 256..1024.  [default: any]")
@click.option("--width", help="Pixels: 512, or a range 256..1024.  [default: any]")
@click.option("--random-weights", is_flag=True, help="Build an alias's architecture with seeded random weights.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random weights.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle at DIR when the new one is complete.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR")
@json_option
def command(
    *, model: str, target: str, random_weights: bool, seed: int, output: Path, as_json: bool, **values: Any
) -> None:
    """Compile a checkpoint into the bundle DIR, one process a component; an interrupted export continues."""
    started = time.perf_counter()
    find_plugin(target).load("target")
    dims = {name: parse_dim(name, text) for name in ("batch", "height", "width") if (text := values.pop(name))}
    checkpoint = open_checkpoint(model, random_weights=random_weights, seed=seed)
    for notice in checkpoint.notices():
        err.print(f"note: {notice}", markup=False, soft_wrap=True)
    report = _build(checkpoint, ExportRequest(target=target, dims=dims, **values), output)
    seconds = time.perf_counter() - started
    if as_json:
        print_json(_as_json(report, output, seconds))
    else:
        out.print(_table(report))
        total = sum(file.size for file in report.manifest.files.values())
        out.print(f"{output}: {size_text(total)} in {seconds:.1f} s", soft_wrap=True)


def _build(checkpoint: Checkpoint, request: ExportRequest, output: Path) -> BuildReport:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    names = [component.name for component in checkpoint.components]
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("starting", total=None)

        def tell(component: str, phase: str) -> None:
            place = f"{names.index(component) + 1}/{len(names)} " if component in names else ""
            progress.update(task, description=f"{place}{component}: {phase}")
            if phase in ("done", "kept"):
                progress.console.print(f"{place}{component}: {phase}", markup=False)

        return build(checkpoint, request, output, tell)


def _table(report: BuildReport) -> Table:
    table = Table("component", "seconds", "slowest phase", "peak memory", "size")
    for name, component in report.manifest.components.items():
        size = size_text(sum(report.manifest.files[file].size for file in _files(component)))
        outcome = report.outcomes.get(name)
        if outcome is None:
            table.add_row(name, "kept", "", "", size)
            continue
        slowest, seconds = max(outcome.seconds.items(), key=lambda phase: phase[1])
        total = f"{sum(outcome.seconds.values()):.1f}"
        table.add_row(name, total, f"{slowest} {seconds:.1f}", size_text(outcome.peak_rss), size)
    return table


def _files(component: Any) -> set[str]:
    return {*component.graph, *(file for engine in component.engines for file in engine.files)}


def _as_json(report: BuildReport, output: Path, seconds: float) -> dict[str, Any]:
    return {
        "bundle": os.fspath(output),
        "seconds": round(seconds, 3),
        "bytes": sum(file.size for file in report.manifest.files.values()),
        "kept": list(report.kept),
        "components": {
            name: {"seconds": dict(outcome.seconds), "peak_rss_bytes": outcome.peak_rss}
            for name, outcome in report.outcomes.items()
        },
    }
