"""Finds the T2I-Adapters of a checkpoint: its own, and those joined from other folders."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.component_file import OutsideNetwork
from diffoundry.exporter.checkpoints.joined_networks import network_in_folder, own_networks, several_as_one
from diffoundry.exporter.components.t2i_adapter import T2I_ADAPTER_CLASS
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.recognize import describe_link
from diffoundry.runtime.models.t2i_adapter import is_t2i_adapter, t2i_adapter_name
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE, class_with

__all__ = ["find_t2i_adapters", "index_with_t2i_adapters", "own_t2i_adapters", "saved_t2i_adapters"]

_SEVERAL = "MultiAdapter"


def find_t2i_adapters(root: Path, index: Mapping[str, Any], joined: Sequence[str]) -> dict[str, OutsideNetwork]:
    """Map names, "adapter", "adapter_1" ..., to the places of the adapters, the checkpoint's own first.

    Args:
        root: The checkpoint's folder.
        index: Its model_index.json.
        joined: Folders of the joined adapters.

    Raises:
        CheckpointError: One cannot be found, or is no T2I-Adapter.
    """
    own = own_t2i_adapters(index, {path.name for path in root.iterdir()})
    found = {name: OutsideNetwork(folder=root / name) for name in own}
    for text in joined:
        found[t2i_adapter_name(len(found))] = _find(text)
    return found


def own_t2i_adapters(index: Mapping[str, Any], folders: Collection[str]) -> tuple[str, ...]:
    """Names of a checkpoint's own adapters; if model_index.json names several, as many as there are folders.

    Args:
        index: model_index.json.
        folders: Names of the folders beside it.
    """
    return own_networks(index, folders, t2i_adapter_name, _SEVERAL)


def index_with_t2i_adapters(index: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Add an entry for each adapter to model_index.json, and choose the pipeline class with adapters.

    Raises:
        CheckpointError: diffusers has no such class.
    """
    if not names:
        return dict(index)
    found = index["_class_name"]
    joined = class_with(found, "t2i_adapter")
    if joined is None:
        known = [name for entry in FAMILY_TABLE for name in entry.classes if class_with(name, "t2i_adapter")]
        raise CheckpointError(
            f"model_index.json: pipeline class: got {found!r} with a T2I-Adapter, expected one of {', '.join(known)}"
        )
    return {**index, "_class_name": joined, **{name: list(T2I_ADAPTER_CLASS) for name in names}}


def saved_t2i_adapters(index: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `index_with_t2i_adapters`: build diffusers' form, where several adapters are one entry."""
    return several_as_one(index, is_t2i_adapter, [T2I_ADAPTER_CLASS[0], _SEVERAL])


def _find(text: str) -> OutsideNetwork:
    """Find an adapter by the user's name for it."""
    folder = Path(text)
    link = describe_link(folder)
    if link is not None:
        raise CheckpointError(f"--t2i-adapter: {text}: {link}")
    return network_in_folder("--t2i-adapter", text, folder, T2I_ADAPTER_CLASS[1])
