"""The manifest `diffoundry.json`: what a bundle holds, how it was made, and the version window that is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.json_codec import RecordError, from_json, to_json
from diffoundry.runtime.bundle.specs import ComponentSpec, FileSpec, Recipe
from diffoundry.runtime.errors import BundleError

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

# One line a version, newest first: what changed, and what this reader makes of it.
#   4: ControlNets that were joined: in the recipe. Read.
#   3: what an engine can be adapted to at run time. Read.
#   2: several sets of engines: the recipe's builds, buckets and quantization; an engine's facts and pending. Read.
#   1: first format (2026-11): one target and precision in the recipe. Read, as one build.
FORMAT_VERSION = 4
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
        recipe: How to build it again.
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
    """The manifest as the text of `diffoundry.json`."""
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
        return from_json(Manifest, _from_version_1(data) if version == 1 else data)
    except RecordError as error:
        raise BundleError(f"{path}: {error}; export the bundle again") from error


def _from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest of version 1 in the words of version 2; what has another form is left for the reader to refuse."""
    recipe = data.get("recipe")
    if not isinstance(recipe, dict):
        return data
    recipe = dict(recipe)
    names = {"target": "target", "precision": "precision", "target_options": "options"}
    build = {new: recipe.pop(old) for old, new in names.items() if old in recipe}
    return {**data, "recipe": {**recipe, "builds": [build]}}


def parse_json(text: bytes, path: Path) -> Any:
    """`json.loads` for files of strangers: bounded, and every failure is a `BundleError`."""
    if len(text) > MAX_JSON_BYTES:
        raise BundleError(f"{path}: got more than {MAX_JSON_BYTES} bytes, expected a small JSON file; do not trust it")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise BundleError(f"{path}: nested too deeply to be a config; do not trust it") from error
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error}); the file is damaged, copy or export it again") from error
