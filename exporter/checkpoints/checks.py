"""Checks a checkpoint's folder before anything of it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.json_files import check_readable, is_number_list, read_json
from diffoundry.exporter.checkpoints.tokenizer_files import ENDINGS, check_tokenizer_files, holds_tokenizer
from diffoundry.exporter.component import Config, Configs, FamilyDeclaration
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.formats.recognize import describe_link

__all__ = ["check_classes", "check_folder", "check_index", "read_configs"]


_CLASS_NAMES = "id2label"
"""Field of model_index.json with the names of classes, which no path is made of."""


def check_index(path: Path, index: Config) -> None:
    """Check that model_index.json names a pipeline, and no paths.

    Raises:
        CheckpointError: It does not.
    """
    name = index.get("_class_name")
    if isinstance(name, list) and len(name) == 2:
        raise CheckpointError(
            f"{path}: names the community pipeline {name[1]!s:.60} with code in {name[0]!s:.60}.py, which is not run; "
            f"expected a pipeline class of diffusers; if it has the networks of one, such as StableDiffusionPipeline, "
            f"write that name into '_class_name'"
        )
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: got no '_class_name', expected the name of a diffusers pipeline; it is damaged")
    for key, entry in index.items():
        if (key == _CLASS_NAMES and isinstance(entry, dict)) or is_number_list(entry):
            continue
        if isinstance(entry, dict) or (isinstance(entry, list) and not _is_component(entry)):
            raise CheckpointError(
                f"{path}: component {key[:60]!r}: got {shorten(entry)}, expected [library, class] or [null, null]; "
                f"it is damaged"
            )
        for text in (key, *(entry if isinstance(entry, list) else [])):
            if isinstance(text, str) and (".." in text or "/" in text or "\\" in text):
                raise CheckpointError(f"{path}: names {text!r}, expected no path; the checkpoint is not trusted")


def _is_component(entry: list[Any]) -> bool:
    return len(entry) == 2 and (entry == [None, None] or all(isinstance(part, str) for part in entry))


def check_classes(path: Path, index: Config, family: FamilyDeclaration) -> None:
    """Check that model_index.json names only classes of the family.

    Raises:
        CheckpointError: It does not.
    """
    for kind in family.components:
        entry = index.get(kind.source)
        found = ":".join(str(part) for part in entry) if isinstance(entry, list) else str(entry)
        if found not in kind.classes:
            raise CheckpointError(
                f"{path}: component {kind.source!r}: got {found}, expected {' or '.join(kind.classes)} "
                f"in a {index['_class_name']}{_other_class(found, kind.classes)}"
            )


def _other_class(found: str, known: tuple[str, ...]) -> str:
    """Return the way out for a text encoder with a projection where diffusers takes its first output for the states."""
    plain = found.removesuffix("WithProjection")
    if plain == found or plain not in known:
        return ""
    return f"; write {plain.partition(':')[2]} there, which reads the same weights without their projection"


def read_configs(root: Path, outside: Mapping[str, Path], index: Config, family: FamilyDeclaration) -> Configs:
    """Read the config.json of every network, and complete it with the defaults of its class.

    Args:
        root: The checkpoint's folder.
        outside: Networks to their folders, for networks that lie elsewhere.
        index: model_index.json.
        family: FamilyDeclaration of the networks.

    Raises:
        CheckpointError: One is missing or damaged.
    """
    folders = {kind.source: outside.get(kind.source, root / kind.source) for kind in family.components}
    for source, folder in folders.items():
        if not folder.is_dir():
            raise CheckpointError(_missing_folder(root, source, index[source][1]))
    return {
        source: complete_config(read_json(folder / "config.json"), index[source][1])
        for source, folder in folders.items()
    }


_WAYS_OUT = {"vae": "--vae", "safety_checker": "--no-safety-checker", "feature_extractor": "--no-safety-checker"}
"""Folder to the option that makes up for its absence."""


def _missing_folder(root: Path, name: str, kind: str) -> str:
    link = describe_link(root / name)
    if link is not None:
        return f"{root / name}: {link}"
    # A depth estimator's processor of images has no way out: the option leaves out safety checkers alone.
    way = f", or pass {_WAYS_OUT[name]}" if name in _WAYS_OUT and not kind.startswith("DPT") else ""
    return (
        f"{root}: got no folder {name!r}, although model_index.json names {kind} for it; the checkpoint is incomplete, "
        f"download it again{way}"
    )


def check_folder(root: Path, name: str, index: Config) -> None:
    """Check that a folder has the files that a bundle copies, and that each can be read.

    Args:
        root: The checkpoint's folder.
        name: The folder in it.
        index: model_index.json.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    folder = root / name
    if name in _WAYS_OUT and not folder.is_dir():
        entry = index.get(name)
        raise CheckpointError(_missing_folder(root, name, str(entry[1]) if isinstance(entry, list) else "a class"))
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.endswith(ENDINGS):
                check_readable(path)
    if holds_tokenizer(name, index):
        check_tokenizer_files(folder)
    if name.endswith("scheduler"):
        read_json(folder / "scheduler_config.json")
    elif name in ("feature_extractor", "image_processor", "processor", "siglip_processor"):
        read_json(folder / "preprocessor_config.json")
