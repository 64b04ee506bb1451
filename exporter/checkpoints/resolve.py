"""Finds a checkpoint's folder: on disk, in the package, or on the hub."""

import re
from collections.abc import Callable, Collection
from pathlib import Path

from diffoundry.exporter.checkpoints.aliases import Alias, alias_folder, read_aliases
from diffoundry.exporter.checkpoints.hints import check_folder_of_pipeline
from diffoundry.exporter.configs.assemble import assemble_configs
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["DownloadProgress", "configs_of", "find_root", "forms"]

DownloadProgress = Callable[[str, int, int], None]
"""Called while files are downloaded: (file, bytes so far, bytes in all)."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_root(
    model: str,
    alias: Alias | None,
    revision: str | None,
    variant: str | None,
    progress: DownloadProgress | None,
    without: Collection[str],
) -> Path:
    """Find the folder of a checkpoint with weights, downloaded from the hub if needed.

    Args:
        model: The user's name for it.
        alias: The alias of this name, or None.
        revision: Branch, tag or commit on the hub.
        variant: As in `choose_weights`.
        progress: Called during a download.
        without: Optional components that are not downloaded.

    Raises:
        CheckpointError: It cannot be found or downloaded.
    """
    if alias is not None and alias.folder is not None:
        return alias_folder(alias.folder)
    path = Path(model)
    if alias is None and model and path.is_dir():
        check_folder_of_pipeline(model, forms())
        return path
    if alias is None:
        _check_hub_id(model)
    from diffoundry.exporter.checkpoints.hub import download

    return download((alias.hub if alias else None) or model, revision, progress, variant=variant, without=without)


def _check_hub_id(model: str) -> None:
    """Refuse a name that is no hub id, and the mistyped path of a folder here.

    Raises:
        CheckpointError: No folder has this name, and it is not to be looked up on the hub.
    """
    if not _HUB_ID.fullmatch(model):
        nearest = did_you_mean(model, read_aliases())
        raise CheckpointError(f"model {model!r}: no folder or file {model!r} here, expected {forms()}.{nearest}")
    parent = Path(model).parent
    if parent.is_dir():
        names = [f"{parent.name}/{path.name}" for path in parent.iterdir()]
        raise CheckpointError(
            f"model {model!r}: no folder {model} here, although {parent} exists; check the path."
            f"{did_you_mean(model, names)}"
        )


def configs_of(alias: Alias) -> Path:
    """Find or build a folder for random weights: with the weights, or assembled from the package."""
    assert alias.configs is not None, "a ControlNet is refused before"
    configs = alias_folder(alias.configs)
    if alias.folder is not None:
        return configs
    components = {name: configs.parent / folder for name, folder in alias.components.items()}
    return assemble_configs(configs, alias.changes, components)


def forms() -> str:
    """Describe the accepted names of a checkpoint, for messages."""
    aliases = ", ".join(sorted(name for name, alias in read_aliases().items() if alias.configs is not None))
    return f"a diffusers folder, a single .safetensors file, a hub id such as org/name, or an alias ({aliases})"
