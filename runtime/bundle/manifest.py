"""The manifest `diffoundry.json`: the content of a bundle, its recipe, and the versions that are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.check_manifest import check_manifest
from diffoundry.runtime.bundle.json_codec import RecordError, from_json, to_json
from diffoundry.runtime.bundle.specs import ComponentSpec, FileSpec, Recipe
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.formats.untrusted_json import NestingError, load_json
from diffoundry.runtime.models.roles import ROLES, role_of_folder

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "MAX_JSON_BYTES",
    "Manifest",
    "dump_manifest",
    "parse_json",
    "parse_manifest",
]

MANIFEST_NAME = "diffoundry.json"

# One line a version, newest first: its change, and whether this reader takes it.
#   5: role and network class of each component; `builds` is called `variants`, `facts` `metadata`; engines may have
#      parts and idle inputs. Read.
#   4: ControlNets that were joined: in the recipe. Read.
#   3: adapters that an engine takes at run time. Read.
#   2: several sets of engines: the recipe's builds, buckets and quantization; an engine's facts and pending. Read.
#   1: first format (2026-11): one target and precision in the recipe. Read, as one variant.
FORMAT_VERSION = 5
OLDEST_FORMAT_VERSION = 1

MAX_JSON_BYTES = 8 * 2**20
"""No JSON file of a bundle is larger: SD-sized manifests have some 10 kB, the CLIP vocabulary 1 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The content of `diffoundry.json`.

    Attributes:
        format_version: Version of this form; see the list at the top of the module.
        diffoundry: Version of diffoundry that wrote the bundle.
        family: Name of the pipeline family, such as "stable_diffusion".
        recipe: Recipe for building it again.
        components: Component name (its folder) to graph and engines.
        files: Every file of the bundle but this one: path with forward slashes to size and SHA-256.
        built_with: Versions of the libraries that traced it.
    """

    format_version: int
    diffoundry: str
    family: str
    recipe: Recipe
    components: Mapping[str, ComponentSpec]
    files: Mapping[str, FileSpec]
    built_with: Mapping[str, str] = field(default_factory=dict)


def dump_manifest(manifest: Manifest) -> str:
    """Return the text of `diffoundry.json`."""
    return json.dumps(to_json(manifest), indent=2) + "\n"


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Read the manifest, strictly.

    Raises:
        BundleError: No JSON, another version, or a field that does not fit; the message names the path of the field.
    """
    data = parse_json(text, path)
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int:
        raise BundleError(f"{path}: got no format_version, expected an integer; this is not a diffoundry manifest")
    if not OLDEST_FORMAT_VERSION <= version <= FORMAT_VERSION:
        writer = data.get("diffoundry", "unknown")
        raise BundleError(
            f"{path}: got format version {version} (written by diffoundry {str(writer)[:40]}), expected "
            f"{OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}; "
            + ("upgrade diffoundry" if version > FORMAT_VERSION else "export the bundle again")
        )
    try:
        manifest = from_json(Manifest, _upgrade(data, version))
        check_manifest(manifest.recipe, manifest.components)
    except RecordError as error:
        raise BundleError(f"{path}: {error}; export the bundle again") from error
    for name, component in manifest.components.items():
        if version == FORMAT_VERSION and component.role not in ROLES:
            raise BundleError(
                f"{path}: $.components.{name}.role: got {component.role!r}, expected one of {', '.join(ROLES)}; "
                f"upgrade diffoundry"
            )
    return manifest


def _upgrade(data: dict[str, Any], version: int) -> dict[str, Any]:
    """Convert a manifest of an older version to the words of the newest; the versions follow each other."""
    if version == 1:
        data = _from_version_1(data)
    if version <= 4:  # versions 2 to 4 differ only in optional fields
        data = _from_version_4(data)
    return data


def _from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """Convert a manifest of version 1 to the words of version 2; a malformed one is left for the reader to refuse."""
    recipe = data.get("recipe")
    if not isinstance(recipe, dict):
        return data
    recipe = dict(recipe)
    names = {"target": "target", "precision": "precision", "target_options": "options"}
    build = {new: recipe.pop(old) for old, new in names.items() if old in recipe}
    return {**data, "recipe": {**recipe, "builds": [build]}}


def _from_version_4(data: dict[str, Any]) -> dict[str, Any]:
    """Convert a manifest of version 4 to the words of version 5.

    The network's class is left empty: model_index.json knows it, and `Bundle` reads that.
    """
    upgraded = dict(data)
    if isinstance(data.get("recipe"), dict):
        upgraded["recipe"] = _renamed(data["recipe"], "builds", "variants")
    components = data.get("components")
    if isinstance(components, dict):
        upgraded["components"] = {
            name: {"role": role_of_folder(name), "network": "", **spec, "engines": _engines_from_version_4(spec)}
            if isinstance(spec, dict) and "engines" in spec
            else spec
            for name, spec in components.items()
        }
    return upgraded


def _engines_from_version_4(component: dict[str, Any]) -> Any:
    engines = component["engines"]
    if not isinstance(engines, list):
        return engines
    return [_renamed(engine, "facts", "metadata") if isinstance(engine, dict) else engine for engine in engines]


def _renamed(record: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if key == old else key: value for key, value in record.items()}


def parse_json(text: bytes, path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """Parse untrusted JSON of at most `most` bytes; every failure is a `BundleError`."""
    if len(text) > most:
        raise BundleError(f"{path}: got more than {most} bytes, expected a small JSON file; do not trust it")
    try:
        return load_json(text)
    except NestingError as error:
        raise BundleError(f"{path}: nested too deeply to be a config; do not trust it") from error
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error}); the file is damaged, copy or export it again") from error
