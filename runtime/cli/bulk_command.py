"""`generate --resume`: generates each prompt of a file that is not finished."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffoundry.runtime import load
from diffoundry.runtime.cli.bulk import BulkFolder, generate_item, open_folder
from diffoundry.runtime.cli.console import bar, print_json, remark
from diffoundry.runtime.cli.prepared_run import PreparedRun
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import SUFFIXES
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.chain import chain

__all__ = ["BulkJob", "BulkReport", "check_resume", "generate_bulk", "tell_bulk"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkJob:
    """Everything that a process needs to generate prompts of a bulk.

    Attributes:
        bundles: The bundle, or those of a chain.
        engines: Keyword arguments of `load`.
        settings: Merged options of the command.
        defaulted: Names in `settings` that were defaults of an earlier run.
        files: Options that name files.
    """

    bundles: tuple[Path, ...]
    engines: Mapping[str, Any]
    settings: Mapping[str, Any]
    defaulted: frozenset[str]
    files: Mapping[str, Any]

    def open(self) -> PipelineBase:
        """Load the pipeline."""
        opened = [load(one, **self.engines) for one in self.bundles]
        return opened[0] if len(opened) == 1 else chain(*opened)

    def prepare(self, pipeline: PipelineBase, folder: Path) -> PreparedRun:
        """Prepare the runs of a pipeline, which nothing else may have prepared."""
        return PreparedRun.of_command(
            pipeline, dict(self.settings), self.defaulted, self.files, folder / f"000001{SUFFIXES[0]}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkReport:
    """The end of a bulk.

    Attributes:
        folder: Its folder.
        generated: Prompts that were generated now.
    """

    folder: BulkFolder
    generated: int


def check_resume(pipeline: PipelineBase, output: str | None, values: Mapping[str, Any]) -> None:
    """Refuse what --resume cannot do.

    Raises:
        InputError: No --prompts, no folder, a pipeline without images, or heat maps.
    """
    if values["prompts_file"] is None:
        raise InputError("--resume: got no --prompts, expected a file of prompts; pass it, or leave --resume out")
    if output is None or (Path(output).suffix.lower() in SUFFIXES and not Path(output).is_dir()):
        raise InputError(f"--resume: got the output {output or 'out-0001.png'}, expected a folder; pass -o FOLDER")
    if not pipeline.makes_images:
        raise InputError(
            f"--resume: a {pipeline.session.bundle.pipeline_class} makes no images, which --resume expects; leave it "
            f"out"
        )
    if values.get("heat_map"):
        raise InputError("--heat-map: got it with --resume, which writes images alone; leave one of the two out")


def generate_bulk(job: BulkJob, pipeline: PipelineBase, output: str | None, source: Path) -> BulkReport:
    """Generate the prompts that are not finished.

    Args:
        job: The job.
        pipeline: Opened from it.
        output: The folder, as typed.
        source: The file of prompts.

    Raises:
        InputError: As `open_folder` and `generate_item`; finished images stay.
    """
    path = Path(str(output))
    prepared = job.prepare(pipeline, path)
    folder = open_folder(path, pipeline, prepared.settings, prepared.files, source)
    missing = folder.missing()
    if len(missing) < len(folder.items):
        remark(f"{path}: {len(folder.items) - len(missing)} of {len(folder.items)} prompts are finished")
    with bar() as progress:
        for number in progress.track(missing, description="generating"):
            generate_item(prepared, folder, number)
    return BulkReport(folder=folder, generated=len(missing))


def tell_bulk(report: BulkReport, started: float, *, as_json: bool) -> None:
    """Say how many prompts were generated, or print the manifest as JSON."""
    folder, seconds = report.folder, round(time.perf_counter() - started, 3)
    if as_json:
        images = [{**line, "file": str(folder.path / line["file"])} for line in folder.lines()]
        skipped = len(folder.items) - report.generated
        print_json({"images": images, "generated": report.generated, "skipped": skipped, "seconds": seconds})
        return
    remark(f"{folder.path}: {report.generated} of {len(folder.items)} prompts generated in {seconds:.1f} s")
