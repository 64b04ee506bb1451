"""Short names for checkpoints and ControlNets: the table in aliases.toml."""

import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.install_hint import install_models_command

__all__ = ["Alias", "alias_folder", "package_path", "read_aliases"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """Location of an alias's weights and configs.

    Attributes:
        configs: Folder of an installed package with the configs, for random weights; None for a ControlNet.
        hub: Hub id of the weights, or None.
        folder: Folder of an installed package with the weights, or None.
        components: Component that `configs` lacks to its folder, relative to the parent of `configs`.
        changes: JSON file, such as "unet/config.json", to the fields that are set in it.
    """

    configs: str | None = None
    hub: str | None = None
    folder: str | None = None
    components: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_aliases() -> dict[str, Alias]:
    """Read the table of aliases."""
    table = package_path("exporter/checkpoints/aliases.toml").read_text(encoding="utf-8")
    return {name: Alias(**entry) for name, entry in tomllib.loads(table).items()}


def alias_folder(path: str) -> Path:
    """Find a folder of the table of aliases, written as package/folder.

    Raises:
        CheckpointError: The package of the demo models is not installed.
    """
    package, _, folder = path.partition("/")
    try:
        return Path(str(importlib.resources.files(package).joinpath(folder)))
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"model {Path(path).name!r}: it is in the package {package.replace('_', '-')}, which is not installed. "
            f"Install it with: {install_models_command()}"
        ) from error


def package_path(path: str) -> Path:
    """Path of a file or folder installed with diffoundry, also from a wheel or an editable install."""
    return Path(str(importlib.resources.files("diffoundry").joinpath(path)))
