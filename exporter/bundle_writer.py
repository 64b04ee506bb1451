"""Writes a bundle to `<output>.partial` and renames it when it is complete. An interrupted export continues there."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import diffoundry
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.work_folder import WorkFolder
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.checksums import describe_file
from diffoundry.runtime.bundle.file_checks import enclosing_bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, dump_manifest
from diffoundry.runtime.bundle.specs import ComponentSpec, FileSpec, Recipe
from diffoundry.runtime.errors import InputError

__all__ = ["BundleWriter", "check_output", "sum_files"]

_SHOWN = 80
"""Characters of a path that a message about its length shows."""


class BundleWriter(WorkFolder):
    """Holds `<output>.partial` while an export runs; `finish` turns it into `<output>`.

    The partial folder records the recipe and the finished jobs. The same recipe continues there; another one starts
    from the beginning. Only one export at a time can use it.
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
        check_output(output, overwrite=overwrite)
        super().__init__(
            output,
            ending=".partial",
            state=".export",
            option=f"--output {output}",
            busy="another export is writing it; wait for it or choose another folder",
            advice="choose another folder",
        )
        self.recipe = recipe
        self._request, self._overwrite = request, overwrite

    def __enter__(self) -> Self:
        """Lock the partial folder; keep the finished jobs of an earlier export of the same recipe.

        Raises:
            InputError: Another export owns it, it holds other files, or it cannot be written.
            BundleError: The disk is full.
        """
        super().__enter__()
        try:
            check_output(self.output, overwrite=self._overwrite)  # an interrupted swap may have come to an end
            self.start(
                {
                    "diffoundry": diffoundry.__version__,
                    "recipe": to_json(self.recipe),
                    "request": None if self._request is None else to_json(self._request.local),
                }
            )
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

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
        self,
        family: str,
        recipe: Recipe,
        components: Mapping[str, ComponentSpec],
        built_with: Mapping[str, str],
        add_files: Callable[[Path], None] | None = None,
    ) -> Manifest:
        """Sum every file, write the manifest and rename the folder to its final name.

        Args:
            family: Name of the pipeline family.
            recipe: The recipe, with the choices of calibration.
            components: The entries of the components.
            built_with: Versions of the libraries that traced it.
            add_files: Writes further files into the folder, which opens as a bundle then; None for none.
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
        if add_files is not None:
            add_files(self.folder)
            manifest = replace(manifest, files=sum_files(self.folder, manifest.files))
            write_text(self.folder / MANIFEST_NAME, dump_manifest(manifest))
        self.put_in_place()
        return manifest


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output folder in a bundle, and one that exists, unless it is a bundle that may be overwritten.

    Raises:
        InputError: The output exists, or lies in a bundle.
    """
    found = enclosing_bundle(output.parent)
    if found is not None:
        raise InputError(f"--output {output}: got a folder of the bundle {found}, expected another; choose one")
    try:
        os.lstat(output)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        text = str(output)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise InputError(f"--output {shown}: cannot be written ({error.strerror}); choose another folder") from error
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
