"""Checks a checkpoint's folder before anything of it is used."""

from collections.abc import Mapping
from pathlib import Path

from diffoundry.exporter.checkpoints.tokenizer_files import check_tokenizer_files
from diffoundry.exporter.checkpoints.weight_files import read_json
from diffoundry.exporter.component import Config, Configs, FamilyDeclaration
from diffoundry.runtime.errors import CheckpointError

__all__ = ["check_classes", "check_folder", "check_index", "read_configs"]


def check_index(path: Path, index: Config) -> None:
    """Check that model_index.json names a pipeline, and no paths.

    Raises:
        CheckpointError: It does not.
    """
    if not isinstance(index.get("_class_name"), str):
        raise CheckpointError(f"{path}: got no '_class_name', expected the name of a diffusers pipeline; it is damaged")
    for key, entry in index.items():
        for text in (key, *(entry if isinstance(entry, list) else [])):
            if isinstance(text, str) and (".." in text or "/" in text or "\\" in text):
                raise CheckpointError(f"{path}: names {text!r}, expected no path; the checkpoint is not trusted")


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
                f"in a {index['_class_name']}"
            )


def read_configs(root: Path, outside: Mapping[str, Path], index: Config, family: FamilyDeclaration) -> Configs:
    """Read the config.json of every network.

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
            raise CheckpointError(
                f"{folder}: is missing, expected the folder of {index[source][1]}; the checkpoint is incomplete"
            )
    return {source: read_json(folder / "config.json") for source, folder in folders.items()}


def check_folder(folder: Path) -> None:
    """Check that a folder has the files that a bundle copies.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    if folder.name.startswith("tokenizer"):
        check_tokenizer_files(folder)
    elif folder.name == "scheduler":
        read_json(folder / "scheduler_config.json")
    elif folder.name == "feature_extractor":
        read_json(folder / "preprocessor_config.json")
