"""A checkpoint becomes a bundle: the whole way on one screen."""

from dataclasses import dataclass, replace
from pathlib import Path

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.bundle_writer import BundleWriter
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.checkpoints.tokenizer_files import write_tokenizer
from diffoundry.exporter.jobs.processes import run_job
from diffoundry.exporter.jobs.runner import Done, JobRunner, Progress, Run, complete_targets, remove_unused
from diffoundry.exporter.recipe import ExportRequest, make_recipe, quantization_for, tool_versions
from diffoundry.runtime.bundle.manifest import Manifest

__all__ = ["BuildReport", "ExportRequest", "Progress", "build"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What an export did.

    Attributes:
        manifest: Of the finished bundle.
        done: The jobs of this run.
        kept: Labels of the jobs taken over from an interrupted run.
    """

    manifest: Manifest
    done: tuple[Done, ...]
    kept: tuple[str, ...]


def build(
    checkpoint: Checkpoint, request: ExportRequest, output: Path, progress: Progress, *, run: Run = run_job
) -> BuildReport:
    """Export every component of a checkpoint and write the bundle.

    Each component is traced, and each engine lowered, in a process of its own, so that memory peaks at the largest one.

    Args:
        checkpoint: What to export.
        request: Targets, precisions, sizes.
        output: The bundle's folder, which must not exist unless it may be overwritten.
        progress: Told as each phase begins.
        run: How one job is done; tests that need no processes hand in another way.

    Raises:
        InputError: The output is taken, or the request does not fit the checkpoint.
        CheckpointError: The checkpoint cannot be read.
        BundleError: Writing failed; what was finished is kept and the same call continues there.
    """
    recipe = make_recipe(checkpoint, request)
    quantization = quantization_for(recipe, request.quantization)
    with BundleWriter(output, recipe, request=quantization, overwrite=request.overwrite) as writer:
        shop = JobRunner(writer.folder, writer.journal, progress, run)
        for component in checkpoint.components:
            shop.portable(checkpoint, component.name, recipe, writer.empty)
        writer.copy(checkpoint.bundle_files())
        for folder in checkpoint.tokenizer_folders:
            write_tokenizer(checkpoint.root / folder, checkpoint.model_index[folder][1], writer.folder / folder)
        writer.write_json("model_index.json", checkpoint.bundle_model_index())
        halves = request.quantization.budget != Budget()
        recipe = replace(recipe, quantization=shop.choices(recipe, quantization, halves=halves))
        components = shop.components(checkpoint.components, recipe)
        remove_unused(writer.folder, components)
        complete_targets(writer.folder, recipe, progress)
        progress("bundle", "sums")
        manifest = writer.finish(checkpoint.family.name, recipe, components, tool_versions())
    return BuildReport(manifest=manifest, done=tuple(shop.done), kept=tuple(shop.kept))
