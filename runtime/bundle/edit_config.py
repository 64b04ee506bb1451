"""Changes a JSON file of a bundle, and records its new size and checksum."""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.atomic_write import sync_folders, write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.checksums import describe_file, sha256_of
from diffoundry.runtime.bundle.manifest import MANIFEST_NAME, dump_manifest, parse_manifest
from diffoundry.runtime.errors import BundleError

__all__ = ["complete_edit", "replace_json"]

_NEXT = ".diffoundry.next.json"
"""The next manifest, which is there from before the file is replaced until it becomes the manifest."""

_BUILDING = ".build"
"""Ending of the folder beside a bundle in which a build works."""


def replace_json(bundle: Bundle, name: str, content: Mapping[str, Any]) -> None:
    """Replace a JSON file of a bundle. A reader finds the old file or the new one, whole.

    An edit that was interrupted between the two files is completed by `complete_edit`.

    Args:
        bundle: The bundle, which must have a manifest.
        name: The file, relative to the bundle.
        content: JSON object.

    Raises:
        BundleError: No manifest, a link to a file elsewhere, a build that is not finished, or a folder that cannot be
            written.
    """
    root, manifest = bundle.root, bundle.manifest
    if manifest is None:
        raise BundleError(
            f"bundle {root}: got a folder without {MANIFEST_NAME}, expected a bundle; change {name} with an editor"
        )
    if (root / name).is_symlink() or (root / MANIFEST_NAME).is_symlink():
        raise BundleError(f"bundle {root}: {name} is a link to a file elsewhere; copy the bundle with 'cp -rL' first")
    if root.with_name(root.name + _BUILDING).exists():
        raise BundleError(f"bundle {root}: a build of it is not finished; run 'diffoundry build {root}' first")
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"  # as diffusers writes it
    draft = root / f"{_NEXT}.file"
    write_text(draft, text)
    files = {**manifest.files, name: describe_file(draft)}
    write_text(root / _NEXT, dump_manifest(replace(manifest, files=files)))
    try:
        os.replace(draft, root / name)
        sync_folders([(root / name).parent])
        os.replace(root / _NEXT, root / MANIFEST_NAME)
        sync_folders([root])
    except OSError as error:
        raise BundleError(
            f"bundle {root}: {name} cannot be written ({error.strerror}); run the command again"
        ) from error


def complete_edit(root: Path, name: str) -> None:
    """Complete an edit that was interrupted after its file was replaced; undo one that was interrupted before.

    Args:
        root: The bundle's folder.
        name: The file that was replaced.

    Raises:
        BundleError: The folder cannot be written, or the next manifest is damaged.
    """
    waiting = root / _NEXT
    try:
        (root / f"{_NEXT}.file").unlink(missing_ok=True)
        if not stat.S_ISREG(waiting.lstat().st_mode):
            raise BundleError(f"bundle {root}: {waiting.name} is no plain file; do not trust this bundle")
        spec = parse_manifest(waiting.read_bytes(), waiting).files.get(name)
        if spec is not None and (root / name).lstat().st_size == spec.size and sha256_of(root / name) == spec.sha256:
            os.replace(waiting, root / MANIFEST_NAME)
        else:
            waiting.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BundleError(f"bundle {root}: cannot be written ({error.strerror}); change its permissions") from error
