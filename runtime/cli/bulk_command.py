"""`generate --resume`: generates each prompt of a file that is not finished, here or on a Ray cluster."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffoundry.runtime.cli.bulk import BulkFolder, generate_item, open_folder
from diffoundry.runtime.cli.bulk_job import BulkJob
from diffoundry.runtime.cli.bulk_ray import generate_with_ray
from diffoundry.runtime.cli.console import bar, print_json, remark
from diffoundry.runtime.cli.prepared_run import PreparedRun
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import SUFFIXES
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["BulkReport", "check_resume", "generate_bulk", "tell_bulk"]


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


def generate_bulk(
    job: BulkJob, pipeline: PipelineBase, output: str | None, source: Path, ray: str | None = None
) -> BulkReport:
    """Generate the prompts that are not finished.

    Args:
        job: The job.
        pipeline: Opened from it.
        output: The folder, as typed.
        source: The file of prompts.
        ray: Address of the Ray cluster that generates them; None for this process.

    Raises:
        InputError: As `open_folder`, `generate_item` and `generate_with_ray`; finished images stay.
    """
    path = Path(str(output))
    prepared = job.prepare(pipeline, path)
    folder = open_folder(path, pipeline, prepared.settings, prepared.files, source)
    missing = folder.missing()
    if len(missing) < len(folder.items):
        remark(f"{path}: {len(folder.items) - len(missing)} of {len(folder.items)} prompts are finished")
    if ray is None or not missing:
        finished = _generate_here(prepared, folder, missing)
    else:
        finished = generate_with_ray(job, folder, missing, ray)
    with bar() as progress:
        for _ in progress.track(finished, total=len(missing), description="generating"):
            pass
    return BulkReport(folder=folder, generated=len(missing))


def _generate_here(prepared: PreparedRun, folder: BulkFolder, missing: Sequence[int]) -> Iterator[int]:
    """Yield the index of each item once its images are written."""
    for number in missing:
        generate_item(prepared, folder, number)
        yield number


def tell_bulk(report: BulkReport, started: float, *, as_json: bool) -> None:
    """Say how many prompts were generated, or print the manifest as JSON."""
    folder, seconds = report.folder, round(time.perf_counter() - started, 3)
    if as_json:
        images = [{**line, "file": str(folder.path / line["file"])} for line in folder.lines()]
        skipped = len(folder.items) - report.generated
        print_json({"images": images, "generated": report.generated, "skipped": skipped, "seconds": seconds})
        return
    remark(f"{folder.path}: {report.generated} of {len(folder.items)} prompts generated in {seconds:.1f} s")
