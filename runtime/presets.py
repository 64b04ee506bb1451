"""Presets of a bundle: named arguments of a call, with the measured price of the image that they change."""

from collections.abc import Mapping
from typing import Any

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["ARGUMENTS", "PRESETS_FILE", "preset_arguments", "read_presets"]

PRESETS_FILE = "presets.json"
"""File of a bundle: name of a preset to an object of `arguments` and `measured`."""

ARGUMENTS = ("num_inference_steps", "scheduler", "guidance_scale", "guidance_interval", "cache")
"""Arguments that a preset may hold."""


def read_presets(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return the presets of a bundle by name; none where it has no such file.

    Raises:
        BundleError: The file is damaged, or names another argument.
    """
    if not bundle.has(PRESETS_FILE):
        return {}
    presets = bundle.read_object(PRESETS_FILE)
    for name, preset in presets.items():
        arguments = preset.get("arguments") if isinstance(preset, Mapping) else None
        if not isinstance(arguments, Mapping) or not set(arguments) <= set(ARGUMENTS):
            raise BundleError(
                f"{bundle.root / PRESETS_FILE}: got {name!r} without arguments that a preset may hold, expected only "
                f"{', '.join(ARGUMENTS)}; run 'diffoundry tune' again"
            )
    return presets


def preset_arguments(bundle: Bundle, name: str) -> dict[str, Any]:
    """Return the arguments of a preset.

    Raises:
        InputError: The bundle has no such preset; the message lists those that it has.
        BundleError: The file is damaged.
    """
    presets = read_presets(bundle)
    if name not in presets:
        known = f"one of {', '.join(sorted(presets))}" if presets else "none, since this bundle has no presets"
        hint = did_you_mean(name, presets)
        raise InputError(f"preset: got {name!r}, expected {known}; 'diffoundry tune' makes one.{hint}")
    return dict(presets[name]["arguments"])
