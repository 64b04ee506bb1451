"""Writes a bundle beside its final place and renames it whole; an interrupted export is taken up again."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

import diffoundry
from diffoundry.runtime.bundle import sha256_of
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, dump_manifest
from diffoundry.runtime.records import from_json, to_json
from diffoundry.runtime.specs import ComponentSpec, FileSpec, Recipe

__all__ = ["BundleWriter"]

_STATE = ".export"


class BundleWriter:
    """Holds `<output>.partial` while an export runs; `finish` turns it into `<output>`.

    The partial folder remembers the recipe and which components are done. The same recipe continues there, another one
    starts anew. One export at a time may hold it.
    """

    def __init__(self, output: Path, recipe: Recipe, *, overwrite: bool = False) -> None:
        """Nothing is written yet.

        Raises:
            InputError: The output exists and `overwrite` is off, or it is no bundle that could be overwritten.
        """
        self.output = output
        self.folder = output.with_name(output.name + ".partial")
        self.recipe = recipe
        _check_output(output, overwrite=overwrite)
        self._lock = FileLock(self.folder / _STATE / "lock", timeout=0)

    def __enter__(self) -> Self:
        """Take the partial folder.

        Raises:
            InputError: Another export holds it, or it cannot be written.
        """
        try:
            (self.folder / _STATE).mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                f"output {self.output}: another export is writing it just now; wait for it or choose another folder"
            ) from error
        except OSError as error:
            raise InputError(
                f"output {self.output}: cannot be written ({error.strerror}); choose another place"
            ) from error
        self._take_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _take_up(self) -> None:
        """Keep what an earlier export of the same recipe finished, remove everything else."""
        record = self.folder / _STATE / "recipe.json"
        mine = json.dumps({"diffoundry": diffoundry.__version__, "recipe": to_json(self.recipe)})
        if not record.is_file() or record.read_text(encoding="utf-8") != mine:
            for path in self.folder.iterdir():
                if path.name != _STATE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in (self.folder / _STATE).glob("*.json"):
                path.unlink()
            _write(record, mine)

    def done(self, component: str) -> ComponentSpec | None:
        """What an earlier export recorded of a component it finished, or None; then its folder is made empty."""
        record = self.folder / _STATE / f"{component}.json"
        if record.is_file():
            return from_json(ComponentSpec, json.loads(record.read_text(encoding="utf-8")))
        shutil.rmtree(self.folder / component, ignore_errors=True)
        (self.folder / component).mkdir()
        return None

    def mark_done(self, component: str, spec: ComponentSpec) -> None:
        """Record that a component's folder is complete."""
        _write(self.folder / _STATE / f"{component}.json", json.dumps(to_json(spec)))

    def copy(self, files: Iterable[tuple[Path, str]]) -> None:
        """Copy files of the checkpoint as they are: (source, path in the bundle)."""
        for source, name in files:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def write_json(self, name: str, data: Any) -> None:
        """Write a config as JSON."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(target, json.dumps(data, indent=2) + "\n")

    def finish(self, family: str, components: dict[str, ComponentSpec], built_with: dict[str, str]) -> Manifest:
        """Sum every file, write the manifest and rename the folder to its final name."""
        names = sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file() and _STATE not in path.relative_to(self.folder).parts and path.name != MANIFEST_NAME
        )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            diffoundry=diffoundry.__version__,
            family=family,
            recipe=self.recipe,
            components=components,
            files={
                name: FileSpec(size=(self.folder / name).stat().st_size, sha256=sha256_of(self.folder / name))
                for name in names
            },
            built_with=built_with,
        )
        _write(self.folder / MANIFEST_NAME, dump_manifest(manifest))
        shutil.rmtree(self.folder / _STATE)
        aside = self.output.with_name(self.output.name + ".old")
        if self.output.exists():
            os.replace(self.output, aside)
        os.replace(self.folder, self.output)
        shutil.rmtree(aside, ignore_errors=True)
        return manifest


def _check_output(output: Path, *, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise InputError(f"output {output}: exists already; choose another folder, or pass --overwrite to replace it")
    if not (output / MANIFEST_NAME).is_file():
        raise InputError(f"output {output}: exists and is no bundle, so it is not overwritten; choose another folder")


def _write(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader finds all of it or nothing."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written ({error.strerror}); free some space and run again") from error
