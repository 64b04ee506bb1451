"""Reads a checkpoint whose network and scheduler lie beside model_index.json, as the first ones of diffusers do.

`google/ddpm-cifar10-32` has config.json and scheduler_config.json there, and no folders. diffusers: `load_sub_model`
loads a part from the checkpoint's own folder where it has no folder of its name.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.json_files import is_number_list, read_json
from diffoundry.exporter.checkpoints.link_file import link_file
from diffoundry.exporter.configs.assemble import scratch_folder

__all__ = ["SCHEDULER_CONFIG", "flat_network", "spread_flat_folder"]

_INDEX = "model_index.json"
_SCHEDULER = "scheduler"
SCHEDULER_CONFIG = "scheduler_config.json"


def spread_flat_folder(root: Path) -> Path:
    """Return a folder with links in today's layout; `root` itself where it has that layout.

    Raises:
        CheckpointError: A JSON file is damaged.
    """
    if not all((root / name).is_file() for name in (_INDEX, "config.json")):
        return root
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    network = flat_network(read_json(root / _INDEX), folders)
    if network is None:
        return root
    place = scratch_folder() / hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:16]
    if not place.is_dir():
        (place / network).mkdir(parents=True)
        for path in sorted(root.iterdir()):
            if path.is_dir() or path.name == _INDEX:
                link_file(path, place / path.name)
            elif path.name != SCHEDULER_CONFIG:
                link_file(path, place / network / path.name)
        if _SCHEDULER not in folders and (root / SCHEDULER_CONFIG).is_file():
            (place / _SCHEDULER).mkdir()
            link_file(root / SCHEDULER_CONFIG, place / _SCHEDULER / SCHEDULER_CONFIG)
    return place


def flat_network(index: Mapping[str, Any], folders: Collection[str]) -> str | None:
    """Return the only network of a checkpoint that has no folder; None where there are none or several.

    Args:
        index: model_index.json.
        folders: Names of the checkpoint's folders.
    """
    parts = [name for name, entry in index.items() if isinstance(entry, list) and any(entry)]
    missing = [name for name in parts if name not in folders and not name.endswith(_SCHEDULER)]
    missing = [name for name in missing if not is_number_list(index[name])]
    return missing[0] if len(missing) == 1 else None
