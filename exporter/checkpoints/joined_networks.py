"""Finds networks that join a checkpoint: numbered folders, and one entry of model_index.json for several."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.component_file import OutsideNetwork
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.runtime.errors import CheckpointError

__all__ = ["network_in_folder", "own_networks", "several_as_one"]


def own_networks(
    index: Mapping[str, Any], folders: Collection[str], name: Callable[[int], str], several: str
) -> tuple[str, ...]:
    """Names of a checkpoint's own networks; if model_index.json names several, as many as there are folders.

    Args:
        index: model_index.json.
        folders: Names of the folders beside it.
        name: Number of a network to its folder.
        several: diffusers' class of several networks.
    """
    entry = index.get(name(0))
    kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if kind is None:
        return ()
    names = [name(0)]
    while kind == several and (following := name(len(names))) in folders:
        names.append(following)
    return tuple(names)


def several_as_one(index: Mapping[str, Any], is_one: Callable[[str], bool], entry: list[str]) -> dict[str, Any]:
    """Build diffusers' form of model_index.json, where several networks are one entry.

    Args:
        index: With an entry for each network.
        is_one: True for the name of such a network.
        entry: Library and class of several.
    """
    names = [name for name in index if is_one(name)]
    if len(names) < 2:
        return dict(index)
    rest = {key: value for key, value in index.items() if key not in names}
    return {**rest, min(names): entry}


def network_in_folder(option: str, text: str, folder: Path, class_name: str, others: str = "") -> OutsideNetwork:
    """Return the network in a folder that the user named.

    Args:
        option: As typed.
        text: As typed.
        folder: That it means.
        class_name: Class of diffusers that is expected.
        others: Other forms that the option takes, for the message.

    Raises:
        CheckpointError: It is no such folder, or holds another network.
    """
    if not text or not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{option}: got {text!r}, expected {others}a folder in diffusers' layout with config.json and "
            f"diffusion_pytorch_model.safetensors; one from a hub must be downloaded first"
        )
    found = read_json(folder / "config.json").get("_class_name")
    if found != class_name:
        raise CheckpointError(f"{option}: {folder}: got a {found}, expected a {class_name}")
    return OutsideNetwork(folder=folder)
