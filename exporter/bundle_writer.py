"""Writes a bundle to `<output>.partial` and renames it when it is complete. An interrupted export continues there."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

import diffoundry
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.jobs.journal import Journal
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.checksums import describe_file
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, dump_manifest
from diffoundry.runtime.bundle.specs import ComponentSpec, FileSpec, Recipe
from diffoundry.runtime.errors import InputError

__all__ = ["BundleWriter", "check_output", "sum_files"]

_STATE = ".export"
_RECIPE = "recipe"


class BundleWriter:
    """Holds `<output>.partial` while an export runs; `finish` turns it into `<output>`.

    The partial folder records the recipe and the finished jobs. The same recipe continues there; another one starts
    from the beginning. Only one export at a time can use it.

    Attributes:
        folder: The partial folder.
        journal: Record of the finished jobs.
    """

    def __init__(
        self, output: Path, recipe: Recipe, *, request: QuantizationRequest | None = None, overwrite: bool = False
    ) -> None:
        """Check the output; nothing is written yet.

        Args:
            output: The bundle's folder.
            recipe: Recipe of the bundle.
            request: Request for calibration. Another request, like another recipe, starts from the beginning.
            overwrite: True to replace an existing bundle.

        Raises:
            InputError: The output exists and `overwrite` is off, or it is no bundle.
        """
        self.output = output
        self.folder = output.with_name(output.name + ".partial")
        self.recipe = recipe
        self._request = request
        check_output(output, overwrite=overwrite)
        self.journal = Journal(self.folder / _STATE)
        self._lock = FileLock(self.folder / _STATE / "lock", timeout=0)

    def __enter__(self) -> Self:
        """Lock the partial folder.

        Raises:
            InputError: Another export owns it, or it cannot be written.
        """
        try:
            (self.folder / _STATE).mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                f"--output {self.output}: another export is writing it; wait for it or choose another folder"
            ) from error
        except OSError as error:
            raise InputError(
                f"--output {self.output}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        self._continue()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _continue(self) -> None:
        """Keep the finished jobs of an earlier export of the same recipe, remove everything else."""
        mine = {
            "diffoundry": diffoundry.__version__,
            "recipe": to_json(self.recipe),
            "request": to_json(self._request),
        }
        if self.journal.recall(_RECIPE, dict) != mine:
            for path in self.folder.iterdir():
                if path.name != _STATE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.journal.forget()
            self.journal.note(_RECIPE, mine)

    def empty(self, component: str) -> None:
        """Make a component's folder, new and empty."""
        shutil.rmtree(self.folder / component, ignore_errors=True)
        (self.folder / component).mkdir()

    def copy(self, files: Iterable[tuple[Path, str]]) -> None:
        """Copy files of the checkpoint unchanged: (source, path in the bundle)."""
        for source, name in files:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def write_json(self, name: str, data: Any) -> None:
        """Write a config as JSON."""
        write_text(self.folder / name, json.dumps(data, indent=2) + "\n")

    def finish(
        self, family: str, recipe: Recipe, components: Mapping[str, ComponentSpec], built_with: Mapping[str, str]
    ) -> Manifest:
        """Sum every file, write the manifest and rename the folder to its final name.

        Args:
            family: Name of the pipeline family.
            recipe: The recipe, with the choices of calibration.
            components: The entries of the components.
            built_with: Versions of the libraries that traced it.
        """
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            diffoundry=diffoundry.__version__,
            family=family,
            recipe=recipe,
            components=components,
            files=sum_files(self.folder),
            built_with=built_with,
        )
        write_text(self.folder / MANIFEST_NAME, dump_manifest(manifest))
        shutil.rmtree(self.folder / _STATE)
        aside = self.output.with_name(self.output.name + ".old")
        if self.output.exists():
            os.replace(self.output, aside)
        os.replace(self.folder, self.output)
        shutil.rmtree(aside, ignore_errors=True)
        return manifest


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that exists, unless it is a bundle that may be overwritten.

    Raises:
        InputError: The output exists.
    """
    if not output.exists():
        return
    if not overwrite:
        raise InputError(f"--output {output}: exists already; choose another folder, or pass --overwrite to replace it")
    if not (output / MANIFEST_NAME).is_file():
        raise InputError(f"--output {output}: exists and is no bundle, so it is not overwritten; choose another folder")


def sum_files(folder: Path, known: Mapping[str, FileSpec] | None = None) -> dict[str, FileSpec]:
    """Compute sizes and SHA-256 checksums of the files of a bundle, except for the manifest and hidden files.

    Args:
        folder: The bundle's folder.
        known: Files whose checksums are kept.
    """
    known = known or {}
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    names = sorted(
        place.as_posix()
        for place in paths
        if place.name != MANIFEST_NAME and not any(part.startswith(".") for part in place.parts)
    )
    return {name: known[name] if name in known else describe_file(folder / name) for name in names}
