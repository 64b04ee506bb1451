"""Bulk generation: each prompt of a file on its own, into a folder that says how far it is."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffoundry.runtime.cli.image_settings import model_hash
from diffoundry.runtime.cli.prepared_run import PreparedRun, file_names
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import check_output_path, encode_image, write_whole
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = [
    "MANIFEST",
    "SETTINGS",
    "BulkFolder",
    "BulkItem",
    "generate_files",
    "generate_item",
    "open_folder",
    "write_item",
]

MANIFEST = "manifest.jsonl"
"""File of the folder with a line for each image: its file, prompt and seed."""

SETTINGS = "settings.json"
"""File of the folder with the options that all images share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkItem:
    """One prompt of a bulk.

    Attributes:
        prompt: The prompt.
        seeds: Of its images.
        files: Names of its images in the folder.
    """

    prompt: str
    seeds: tuple[int, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkFolder:
    """The folder of a bulk.

    Attributes:
        path: The folder.
        items: One for each prompt, in the order of the file.
    """

    path: Path
    items: tuple[BulkItem, ...]

    def missing(self) -> list[int]:
        """Return the indices of items with an image that is not there."""
        return [number for number, item in enumerate(self.items) if not self.is_finished(item)]

    def is_finished(self, item: BulkItem) -> bool:
        """Return whether all images of an item are there. They are written under other names and renamed."""
        return all((self.path / name).is_file() for name in item.files)

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the manifest: file, prompt and seed of each image."""
        return [
            {"file": file, "prompt": item.prompt, "seed": seed}
            for item in self.items
            for file, seed in zip(item.files, item.seeds, strict=True)
        ]


def open_folder(
    path: Path, pipeline: PipelineBase, settings: Mapping[str, Any], files: Mapping[str, Any], source: Path
) -> BulkFolder:
    """Make the folder of a bulk, or open the one that an earlier command made, and write its manifest.

    Args:
        path: The folder.
        pipeline: Generates the images.
        settings: Of the command, with the list of prompts, and with one seed or none.
        files: Options that name files.
        source: The file of prompts, for messages.

    Raises:
        InputError: The folder belongs to other prompts or options, has files of another origin, or cannot be written.
    """
    seed = settings.get("seed")
    if isinstance(seed, list):
        raise InputError(f"--seed: got {len(seed)} seeds with --resume, expected one; each image adds 1 to it")
    shared = {name: value for name, value in settings.items() if name not in ("prompt", "seed")}
    options = json.loads(json.dumps(_facts(pipeline, {**shared, **_names(files)}), default=str))
    earlier = _read_settings(path)
    first = seed if seed is not None else earlier.get("seed", int.from_bytes(os.urandom(4), "little"))
    prompts = settings["prompt"]
    prompts = prompts if isinstance(prompts, list) else [prompts]
    count = settings.get(pipeline.image_count_argument, 1)
    folder = BulkFolder(path=path, items=tuple(_item(prompts, number, first, count) for number in range(len(prompts))))
    if earlier:
        _check_same(folder, source, earlier, {**options, "seed": first})
    else:
        _check_unused(folder)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {path}: cannot be made ({error.strerror}); choose another") from error
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in folder.lines())
    write_whole(path / MANIFEST, text.encode())
    write_whole(path / SETTINGS, json.dumps({**options, "seed": first}, indent=2, ensure_ascii=False).encode())
    return folder


def generate_item(prepared: PreparedRun, folder: BulkFolder, number: int) -> None:
    """Generate and write the images of one prompt.

    Args:
        prepared: The run without prompt and seed.
        folder: The folder.
        number: Index of the item.

    Raises:
        InputError: The prompt does not fit, or an image cannot be written.
    """
    item = folder.items[number]
    write_item(folder, item, generate_files(prepared, item, folder.path))


def generate_files(prepared: PreparedRun, item: BulkItem, folder: Path) -> list[bytes]:
    """Generate the images of one prompt, and return the bytes of their files.

    Args:
        prepared: The run without prompt and seed.
        item: The prompt.
        folder: Of the files, for messages; nothing is written.

    Raises:
        InputError: The prompt does not fit.
    """
    seed = item.seeds[0] if len(item.seeds) == 1 else list(item.seeds)
    run, kept = prepared.start(folder / item.files[0], prompt=item.prompt, seed=seed)
    for _ in run:
        pass
    images = zip(run.finish().images, item.files, strict=True)
    return [encode_image(image, folder / name, kept.of_image(index)) for index, (image, name) in enumerate(images)]


def write_item(folder: BulkFolder, item: BulkItem, files: Sequence[bytes]) -> None:
    """Write the files of one prompt, each whole or not at all.

    Raises:
        InputError: One cannot be written.
    """
    for name, data in zip(item.files, files, strict=True):
        write_whole(check_output_path(folder.path / name), data)


def _names(files: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that name files, with the files' names."""
    return {name: file_names(value) for name, value in files.items()}


def _facts(pipeline: PipelineBase, options: Mapping[str, Any]) -> dict[str, Any]:
    manifest = pipeline.session.bundle.manifest
    model = None if manifest is None else model_hash(manifest.recipe)
    return {"bundle": pipeline.bundle_name, "model_hash": model, "options": dict(options)}


def _item(prompts: Sequence[str], number: int, seed: int, count: int) -> BulkItem:
    seeds = tuple(seed + number * count + index for index in range(count))
    names = (f"{number + 1:06}.png",) if count == 1 else (f"{number + 1:06}-{index}.png" for index in range(count))
    return BulkItem(prompt=prompts[number], seeds=seeds, files=tuple(names))


def _read_settings(path: Path) -> dict[str, Any]:
    """Return what an earlier command wrote; {} where there was none, or where it finished no image."""
    if not any(path.glob("[0-9]*.png")):
        return {}
    try:
        found = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"--output {path}: its {SETTINGS} cannot be read ({error}); choose another folder") from error
    if not isinstance(found, dict) or not isinstance(found.get("seed"), int):
        raise InputError(f"--output {path}: its {SETTINGS} is not one of --resume; choose another folder")
    return found


def _check_unused(folder: BulkFolder) -> None:
    """Refuse a folder in which images of another origin would count as finished."""
    taken = [name for item in folder.items for name in item.files if (folder.path / name).exists()]
    if taken:
        raise InputError(
            f"--output {folder.path}: has a file {taken[0]}, but no {SETTINGS} of an earlier --resume; choose another "
            f"folder"
        )


def _check_same(folder: BulkFolder, source: Path, earlier: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse to mix images of different options or prompts. Prompts may be added at the end."""
    for name in ("seed", "bundle", "model_hash", "options"):
        if earlier.get(name) != options[name]:
            raise InputError(
                f"--output {folder.path}: was begun with the {name.replace('_', ' ')} {earlier.get(name)!r}, got "
                f"{options[name]!r}; repeat the first command, or choose another folder"
            )
    try:
        text = (folder.path / MANIFEST).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"--output {folder.path}: its {MANIFEST} cannot be read ({error}); choose another") from error
    wanted = folder.lines()
    for number, line in enumerate(lines):
        new = wanted[number] if number < len(wanted) else None
        if line != new:
            got = "no such prompt" if new is None else repr(new["prompt"])
            raise InputError(
                f"--prompts {source}: {folder.path} was begun with the prompt {line.get('prompt')!r} for "
                f"{line.get('file')}, got {got}; add prompts at the end only, or choose another folder"
            )
