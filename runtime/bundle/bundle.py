"""Opens a bundle, or an Optimum ONNX folder, and checks every file before it is used."""

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.checksums import changed
from diffoundry.runtime.bundle.file_checks import check_component_names, check_names, check_regular, hub_blobs
from diffoundry.runtime.bundle.manifest import MANIFEST_NAME, MAX_JSON_BYTES, Manifest, parse_json, parse_manifest
from diffoundry.runtime.bundle.specs import EngineSpec, FileSpec
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER, role_of_folder

__all__ = ["Bundle", "tell_unchecked"]

logger = logging.getLogger(__name__)

_TOLD: set[Path] = set()
"""Folders without a manifest that the user was warned of."""

_VAE_HALVES = (VAE_ENCODER, VAE_DECODER)
"""Components that model_index.json lists as one `vae`."""

_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""Libraries whose class names model_index.json may be trusted with; Optimum writes its own there."""


class Bundle:
    """A folder with a `diffoundry.json`, hostile until checked, or an Optimum ONNX folder without one.

    Paths, file types and sizes are checked when the bundle is opened, SHA-256 sums when a file is first used.
    A folder without a manifest has no sums: only the fixed names of Optimum's layout are opened in it.
    Safe to use from several threads.

    Attributes:
        root: The folder.
        manifest: The content of `diffoundry.json`, or None.
        model_index: The content of `model_index.json`.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            found = "a file" if self.root.exists() else "nothing"
            raise BundleError(
                f"bundle {self.root}: got {found} there, expected a folder made by 'diffoundry export'"
                f"{_leftovers(self.root)}"
            )
        self._blobs = hub_blobs(self.root)
        self._lock = threading.Lock()
        self._trusted: set[str] = set()
        self.manifest = self._read_manifest()
        self.model_index = self.read_object("model_index.json")
        if self.manifest is not None:
            self.manifest = self._with_networks(self.manifest)

    def _read_manifest(self) -> Manifest | None:
        path = self.root / MANIFEST_NAME
        if not path.exists() and not path.is_symlink():
            if (self.root / "model_index.json").is_file():
                self._check_onnx()
                return None
            raise BundleError(
                f"bundle {self.root}: got a folder without {MANIFEST_NAME} and model_index.json, expected a bundle; "
                f"an unfinished export continues when the same 'diffoundry export' is run again"
            )
        check_regular(self.root, MANIFEST_NAME, self._blobs)
        manifest = parse_manifest(_read_bounded(path), path)
        check_names(self.root, manifest.files)
        check_component_names(self.root, manifest.components)
        for name, spec in manifest.files.items():
            check_regular(self.root, name, self._blobs)
            _check_size(self.root, name, spec)
        for component in manifest.components.values():
            for name in component.all_files:
                if name not in manifest.files:
                    raise BundleError(f"{path}: the file {name!r} is used but not listed under files; export again")
        return manifest

    def _check_onnx(self) -> None:
        """Refuse a folder of diffusers without graphs.

        Raises:
            BundleError: It is a checkpoint.
        """
        if not any(self.root.glob("*/model.onnx")):
            raise BundleError(
                f"bundle {self.root}: this is a PyTorch checkpoint in diffusers format, not a bundle; make one with "
                f"'diffoundry export --model {self.root} --target onnxruntime -o NAME.bundle'"
            )

    @property
    def pipeline_class(self) -> str:
        """The pipeline class in model_index.json, without Optimum's and diffusers' ONNX prefixes."""
        return str(self.model_index.get("_class_name", "")).removeprefix("ORT").removeprefix("Onnx")

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components present."""
        if self.manifest is not None:
            return tuple(self.manifest.components)
        return tuple(sorted(path.parent.name for path in self.root.glob("*/model.onnx")))

    def role(self, name: str) -> str:
        """Return the role of a component, one of `ROLES`; without a manifest it follows from the folder's name.

        Raises:
            BundleError: The bundle has no such component.
        """
        self._check_component(name)
        return role_of_folder(name) if self.manifest is None else self.manifest.components[name].role

    def with_role(self, role: str) -> tuple[str, ...]:
        """Return the names of the components that have a role, in the order of the bundle."""
        return tuple(name for name in self.components if self.role(name) == role)

    def component(self, role: str) -> str:
        """Return the name of the only, or first, component that has a role.

        Raises:
            BundleError: No component has it.
        """
        found = self.with_role(role)
        if not found:
            raise BundleError(
                f"bundle {self.root}: got no component with the role {role!r}, it has "
                f"{', '.join(self.components) or 'none'}; export it again from a checkpoint that has one"
            )
        return found[0]

    def network(self, name: str) -> str:
        """Return the class of a component's network in diffusers or transformers; "" where nothing names it.

        Raises:
            BundleError: The bundle has no such component.
        """
        self._check_component(name)
        return self._find_network(name) if self.manifest is None else self.manifest.components[name].network

    def _with_networks(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the network classes that formats 1 to 4 leave to model_index.json."""
        components = {
            name: spec if spec.network else replace(spec, network=self._find_network(name))
            for name, spec in manifest.components.items()
        }
        return replace(manifest, components=components)

    def _find_network(self, name: str) -> str:
        """Look a network's class up in model_index.json, then in its config.json."""
        entry = self.model_index.get(name, self.model_index.get("vae") if name in _VAE_HALVES else None)
        if isinstance(entry, list) and len(entry) == 2 and entry[0] in _LIBRARIES:
            return str(entry[1])
        if not self.has(f"{name}/config.json"):
            return ""
        config = self.config(name)
        architectures = config.get("architectures")
        named = architectures[0] if isinstance(architectures, list) and architectures else config.get("_class_name")
        return named if isinstance(named, str) else ""

    def has(self, name: str) -> bool:
        """Return whether the bundle holds the file `name` (relative, forward slashes)."""
        if self.manifest is not None:
            return name in self.manifest.files
        return (self.root / name).is_file()

    def file(self, name: str) -> Path:
        """Return the path of a file of the bundle after all checks, its SHA-256 included.

        Raises:
            BundleError: It is not part of the bundle, or was changed since the bundle was written.
        """
        if self.manifest is None:
            path = self.root / name
            if not path.is_file():
                raise BundleError(f"{self.root}: got no file {name!r}, expected one as in Optimum's ONNX exports")
            return path
        if name not in self.manifest.files:
            raise BundleError(f"bundle {self.root}: got no file {name!r} in its manifest; export the bundle again")
        with self._lock:
            trusted = name in self._trusted
        if not trusted:
            check_regular(self.root, name, self._blobs)
            _check_sum(self.root, name, self.manifest.files[name])
            with self._lock:
                self._trusted.add(name)
        return self.root / name

    def read_json(self, name: str) -> Any:
        """Parse a JSON file of the bundle.

        Raises:
            BundleError: As `file`, or it is no JSON.
        """
        path = self.file(name)
        return parse_json(_read_bounded(path), path)

    def read_object(self, name: str) -> dict[str, Any]:
        """Parse a JSON file of the bundle that holds an object, as every config does.

        Raises:
            BundleError: As `read_json`, or it holds something else.
        """
        found = self.read_json(name)
        if not isinstance(found, dict):
            raise BundleError(
                f"bundle {self.root}: {name} holds {type(found).__name__}, expected an object; export the bundle again"
            )
        return found

    def config(self, component: str) -> Mapping[str, Any]:
        """Return the component's own config.json, as diffusers or transformers wrote it."""
        return self.read_object(f"{component}/config.json")

    @property
    def in_hub_cache(self) -> bool:
        """True if the folder is a snapshot in the Hugging Face hub's cache, which only the hub's library changes."""
        return self._blobs is not None

    def engines(self, component: str) -> tuple[EngineSpec, ...]:
        """Return the engines recorded for a component; none for a folder without a manifest.

        Raises:
            BundleError: The bundle has no such component.
        """
        self._check_component(component)
        return () if self.manifest is None else self.manifest.components[component].engines

    def _check_component(self, name: str) -> None:
        if name not in self.components:
            raise BundleError(
                f"bundle {self.root}: got no component {name!r}, it has {', '.join(self.components) or 'none'}; "
                f"export it again from a checkpoint that has one"
            )


def tell_unchecked(bundle: Bundle) -> None:
    """Warn in the log, once, of a folder without a manifest: whatever lies in it is opened, links included."""
    if bundle.manifest is None and bundle.root not in _TOLD:
        _TOLD.add(bundle.root)
        logger.warning(
            "warning: %s has no %s: its files have no sums and nothing was checked, and links are followed. Open only "
            "folders that you trust",
            bundle.root,
            MANIFEST_NAME,
        )


def _leftovers(root: Path) -> str:
    """Name the folders that an interrupted command left beside a missing bundle."""
    names = [f"{root.name}{ending}" for ending in (".partial", ".build", ".old")]
    found = [name for name in names if root.name and root.with_name(name).is_dir()]
    if not found:
        return ""
    return f"; an interrupted command left {' and '.join(found)} beside it; run the same command again to complete it"


def _check_size(root: Path, name: str, spec: FileSpec) -> None:
    size = (root / name).stat().st_size
    if size != spec.size:
        raise BundleError(
            f"bundle {root}: {name} has {size} bytes, expected {spec.size}; it is truncated or was replaced, "
            f"copy or export it again"
        )


def _check_sum(root: Path, name: str, spec: FileSpec) -> None:
    _check_size(root, name, spec)
    difference = changed(root / name, spec)
    if difference is not None:
        raise BundleError(
            f"bundle {root}: {name} has {difference}; it was changed after the export, copy or export it again"
        )


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_JSON_BYTES + 1)
