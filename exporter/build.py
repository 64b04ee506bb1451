"""A checkpoint becomes a bundle: the whole way on one screen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffoundry.exporter.bundle_writer import BundleWriter
from diffoundry.exporter.checkpoint import Checkpoint
from diffoundry.exporter.jobs import Job, Outcome
from diffoundry.exporter.processes import run_job
from diffoundry.exporter.recipe import ExportRequest, make_recipe, tool_versions
from diffoundry.runtime.manifest import Manifest
from diffoundry.runtime.specs import ComponentSpec, Recipe
from diffoundry.runtime.tokenizers.clip import write_tokenizer_json

__all__ = ["BuildReport", "ExportRequest", "Progress", "build"]

Progress = Callable[[str, str], None]
"""Called with (component, phase) as each phase begins; the last phase of a component is "done" or "kept"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What an export did.

    Attributes:
        manifest: Of the finished bundle.
        outcomes: Component to seconds and peak memory, for those exported in this run.
        kept: Components taken over from an interrupted run.
    """

    manifest: Manifest
    outcomes: Mapping[str, Outcome]
    kept: tuple[str, ...]


Run = Callable[[Job, Progress], tuple[ComponentSpec, Outcome]]
"""Exports one component; `processes.run_job` does it in a process of its own."""


def build(
    checkpoint: Checkpoint, request: ExportRequest, output: Path, progress: Progress, *, run: Run = run_job
) -> BuildReport:
    """Export every component of a checkpoint and write the bundle.

    Each component is traced, passed and lowered in a process of its own, so that memory peaks at the largest one.

    Args:
        checkpoint: What to export.
        request: Target, precision, sizes.
        output: The bundle's folder, which must not exist unless it may be overwritten.
        progress: Told as each phase begins.
        run: How one component is exported; tests that need no processes hand in another way.

    Raises:
        InputError: The output is taken, or the request does not fit the checkpoint.
        CheckpointError: The checkpoint cannot be read.
        BundleError: Writing failed; what was finished is kept and the same call continues there.
    """
    recipe = make_recipe(checkpoint, request)
    specs: dict[str, ComponentSpec] = {}
    outcomes: dict[str, Outcome] = {}
    kept: list[str] = []
    with BundleWriter(output, recipe, overwrite=request.overwrite) as writer:
        for component in checkpoint.components:
            spec = writer.done(component.name)
            if spec is None:
                spec, outcome = run(_job(checkpoint, component.name, recipe, writer.folder), progress)
                outcomes[component.name] = outcome
                writer.mark_done(component.name, spec)
                progress(component.name, "done")
            else:
                kept.append(component.name)
                progress(component.name, "kept")
            specs[component.name] = spec
        writer.copy(checkpoint.bundle_files())
        for folder in checkpoint.tokenizer_folders:
            write_tokenizer_json(writer.folder / folder)
        writer.write_json("model_index.json", checkpoint.bundle_model_index())
        progress("bundle", "sums")
        manifest = writer.finish(checkpoint.family.name, specs, tool_versions())
    return BuildReport(manifest=manifest, outcomes=outcomes, kept=tuple(kept))


def _job(checkpoint: Checkpoint, component: str, recipe: Recipe, folder: Path) -> Job:
    return Job(checkpoint=checkpoint.describe(), component=component, recipe=recipe, folder=str(folder))
