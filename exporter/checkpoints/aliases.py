"""Short names for checkpoints and ControlNets: the table in aliases.toml."""

import importlib.resources
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Alias", "package_path", "read_aliases"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """Location of an alias's weights and configs.

    Attributes:
        configs: Folder of the package with the configs, for random weights; None: the alias names a ControlNet.
        hub: Hub id of the weights, or None.
        folder: Folder of the package with the weights, or None.
    """

    configs: str | None = None
    hub: str | None = None
    folder: str | None = None


def read_aliases() -> dict[str, Alias]:
    """Read the table of aliases."""
    table = package_path("exporter/checkpoints/aliases.toml").read_text(encoding="utf-8")
    return {name: Alias(**entry) for name, entry in tomllib.loads(table).items()}


def package_path(path: str) -> Path:
    """Path of a file or folder installed with diffoundry, also from a wheel or an editable install."""
    return Path(str(importlib.resources.files("diffoundry").joinpath(path)))
