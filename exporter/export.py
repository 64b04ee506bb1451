"""Compiles a checkpoint into a bundle: trace, calibrate, lower, write."""

from dataclasses import dataclass, replace
from pathlib import Path

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.bundle_writer import BundleWriter
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.checkpoints.rehearse import rehearse
from diffoundry.exporter.jobs.processes import JobProcesses
from diffoundry.exporter.jobs.runner import FinishedJob, JobRunner, Progress, Run, complete_targets, remove_unused
from diffoundry.exporter.recipe import make_recipe, quantization_for, tool_versions
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.single_graph.check import check_request, check_single_graph
from diffoundry.exporter.single_graph.write import write_single_graph
from diffoundry.runtime.bundle.manifest import Manifest

__all__ = ["ExportReport", "Progress", "export"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """Result of an export.

    Attributes:
        manifest: Of the finished bundle.
        done: The jobs of this run.
        kept: Labels of the jobs that an interrupted run has finished.
    """

    manifest: Manifest
    done: tuple[FinishedJob, ...]
    kept: tuple[str, ...]


def export(
    checkpoint: Checkpoint, request: ExportRequest, output: Path, progress: Progress, *, run: Run | None = None
) -> ExportReport:
    """Export every component of a checkpoint and write the bundle.

    Each component is traced, and each engine lowered, in a process of its own, so that memory peaks at the largest one.

    Args:
        checkpoint: The checkpoint.
        request: Targets, precisions, sizes.
        output: The bundle's folder, which must not exist unless it may be overwritten.
        progress: Called as each phase begins.
        run: Does one job; None runs each in a process of its own.

    Raises:
        InputError: The output is taken, or the request does not fit the checkpoint.
        CheckpointError: The checkpoint cannot be read, or the runtime cannot open what it holds.
        BundleError: Writing failed; finished jobs are kept, and the same call continues there.
    """
    recipe = make_recipe(checkpoint, request)
    graph = request.single_graph
    variant = check_request(graph, recipe) if graph else None
    rehearse(checkpoint, recipe, (lambda opened: check_single_graph(opened, graph, recipe)) if graph else None)
    quantization = quantization_for(recipe, request.quantization)
    opened = BundleWriter(output, recipe, request=quantization, overwrite=request.overwrite)
    with opened as writer, JobProcesses() as processes:
        jobs = JobRunner(writer.folder, writer.journal, progress, run or processes)
        for component in checkpoint.components:
            jobs.portable(checkpoint, component.name, recipe, writer.empty)
        writer.copy(checkpoint.bundle_files())
        for folder in checkpoint.tokenizer_folders:
            checkpoint.write_tokenizer(folder, writer.folder / folder)
        writer.write_json("model_index.json", checkpoint.bundle_model_index())
        halves = request.quantization.budget != Budget()
        recipe = replace(recipe, quantization=jobs.quantization(recipe, quantization, halves=halves))
        components = jobs.components(checkpoint.components, recipe)
        remove_unused(writer.folder, components)
        complete_targets(writer.folder, recipe, progress)
        progress("bundle", "sums")
        add = (lambda folder: write_single_graph(folder, graph, recipe, variant)) if graph and variant else None
        manifest = writer.finish(checkpoint.family.name, recipe, components, tool_versions(), add)
    return ExportReport(manifest=manifest, done=tuple(jobs.done), kept=tuple(jobs.kept))
