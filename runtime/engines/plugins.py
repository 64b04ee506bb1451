"""Finds targets by the entry points of the group `diffoundry.targets`; their code is loaded when first used."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from diffoundry.runtime.errors import EngineError, InputError, MissingExtraError
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["TargetPlugin", "find_plugin", "list_plugins", "resolve"]

_GROUP = "diffoundry.targets"


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetPlugin:
    """The description of a target, which loads none of its code.

    Attributes:
        name: Name for --target and in the manifest.
        summary: One line for `diffoundry targets`.
        module: The vendor's Python package, which both halves need.
        extra: The extra of diffoundry that installs `module`.
        target: "module:attribute" of the frozen dataclass that lowers graphs (needs onnx_ir).
        engine: "module:attribute" of the callable that opens engines (`runtime.engines.protocol.OpenEngine`).
        devices: "module:attribute" of a function without arguments that lists the devices usable on this machine.
        precisions: "module:attribute" of a function (device) that lists the precisions that the device computes
            natively, the fastest first, without those that it emulates.
        builds_anywhere: True if `target` compiles on machines that have none of its devices.
        compiles: Precisions that `target` compiles, with some options; () where that is not known.
        defers: True if `target` works without `module`, and writes the files that `diffoundry build` needs elsewhere.
        reproducible: True if `target` writes the same bytes for the same graph, with the same version of `module`.
        pieces: True if `engine` runs in pieces on the CPU where `EngineOptions.memory` demands it.
    """

    name: str
    summary: str
    module: str
    extra: str
    target: str
    engine: str
    devices: str
    precisions: str
    defers: bool = False
    builds_anywhere: bool = False
    compiles: tuple[str, ...] = ()
    reproducible: bool = False
    pieces: bool = False

    @property
    def installed(self) -> bool:
        """True when the vendor's package is installed; it is not loaded."""
        return importlib.util.find_spec(self.module) is not None

    def load(self, part: str) -> Any:
        """Import and return the object behind the field `part` ("target", "engine", "devices" or "precisions").

        Raises:
            MissingExtraError: The vendor's package, or another one that this part needs, is not installed.
        """
        try:
            return resolve(getattr(self, part))
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == "diffoundry":
                raise EngineError(
                    f"target {self.name!r}: its plugin points at {getattr(self, part)!r}, which does not exist; "
                    f"reinstall the package that provides this target"
                ) from error
            extra = self.extra if missing == self.module else "export"
            raise MissingExtraError(f"target {self.name!r}", missing, extra) from error

    def make_target(self, options: Mapping[str, Any]) -> Any:
        """Return the target with these options; lists, which JSON makes of tuples, become tuples again.

        Raises:
            ConfigError: An option has a value that it cannot have.
            MissingExtraError: As `load`.
        """
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return self.load("target")(**plain)


def resolve(reference: str) -> Any:
    """Import "module:attribute" and return the attribute."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def list_plugins() -> tuple[TargetPlugin, ...]:
    """Return all installed targets in order of name.

    Raises:
        EngineError: Two packages claim one name, or a plugin is no `TargetPlugin`.
    """
    plugins: dict[str, TargetPlugin] = {}
    for entry in _entries(tuple((folder, _changed(folder)) for folder in sys.path)):
        if entry.name in plugins:
            claimants = [str(e.dist.name if e.dist else e.value) for e in entry_points(group=_GROUP, name=entry.name)]
            raise EngineError(f"target {entry.name!r}: claimed by {', '.join(claimants)}; uninstall all but one")
        plugin = entry.load()
        if not isinstance(plugin, TargetPlugin) or plugin.name != entry.name:
            raise EngineError(
                f"target {entry.name!r}: its entry point {entry.value!r} gives {plugin!r}, "
                f"expected a TargetPlugin of that name; reinstall the package that provides it"
            )
        plugins[entry.name] = plugin
    return tuple(plugins.values())


@lru_cache(maxsize=1)
def _entries(_search_path: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Read the entry points, once for each state of the search path: it takes 4 ms, and every engine asks for them."""
    return tuple(sorted(entry_points(group=_GROUP), key=lambda entry: entry.name))


def _changed(folder: str) -> int:
    """Return the time of the last installation into a folder of the search path, 0 if there is no such folder."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def find_plugin(name: str) -> TargetPlugin:
    """Return the target called `name`.

    Raises:
        InputError: No target has this name; the message lists the names.
    """
    plugins = {plugin.name: plugin for plugin in list_plugins()}
    if name not in plugins:
        raise InputError(f"target: got {name!r}, expected one of {', '.join(plugins)}.{did_you_mean(name, plugins)}")
    return plugins[name]
