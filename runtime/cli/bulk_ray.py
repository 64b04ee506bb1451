"""`generate --ray`: processes of a Ray cluster generate the prompts of a bulk; this process writes their files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffoundry.runtime.cli.bulk import BulkFolder, BulkItem, generate_files, write_item
from diffoundry.runtime.cli.bulk_job import BulkJob
from diffoundry.runtime.cli.ray_workers import RayWorker, RayWorkers, check_address
from diffoundry.runtime.errors import DiffoundryError, InputError

__all__ = ["BulkWorker", "check_ray", "generate_with_ray"]


def check_ray(address: str, values: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse what --ray cannot do, before anything is loaded.

    Args:
        address: As typed.
        values: Options of the command.
        resume: True with --resume.

    Raises:
        InputError: No file of prompts, no --resume, or no address.
        MissingExtraError: Ray is not installed.
    """
    if values["prompts_file"] is None:
        raise InputError("--ray: got no --prompts, expected a file of prompts; pass it, or leave --ray out")
    if not resume:
        raise InputError(
            "--ray: got no --resume, expected it, so that finished images are kept; pass it with -o FOLDER"
        )
    check_address(address)


class BulkWorker(RayWorker):
    """Generates prompts in a process of Ray."""

    def prepare(self, opening: tuple[BulkJob, Path]) -> None:
        """Load the pipeline of a job, whose files go into a folder.

        Raises:
            DiffoundryError: As `generate`.
        """
        job, folder = opening
        self._prepared = job.prepare(job.open(), folder)
        self._folder = folder

    def work(self, item: BulkItem) -> list[bytes] | str:
        """Return the files of a prompt's images, or the error."""
        try:
            return generate_files(self._prepared, item, self._folder)
        except DiffoundryError as error:
            return str(error)


def generate_with_ray(job: BulkJob, folder: BulkFolder, missing: Sequence[int], address: str) -> Iterator[int]:
    """Generate items on a cluster, write their files here, and yield the index of each item once they are written.

    Workers send the bytes of files, so a worker that is killed leaves nothing behind.

    Args:
        job: The job.
        folder: The folder.
        missing: Indices of the items.
        address: Of the cluster, as `check_address` takes it.

    Raises:
        InputError: The cluster cannot be reached, an item does not fit, or it killed several workers.
    """
    shared = {name: value for name, value in job.settings.items() if name != "prompt"}
    opening = replace(job, settings=shared), folder.path
    items = [folder.items[number] for number in missing]
    with RayWorkers(address, BulkWorker, job.bundles, opening, job.engines) as workers:
        for place, files in workers.work(items, lambda item: f"it generated {item.files[0]}"):
            write_item(folder, items[place], files)
            yield missing[place]
