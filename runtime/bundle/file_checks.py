"""Checks of a bundle's file names and file types, before anything of it is opened."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from diffoundry.runtime.errors import BundleError

__all__ = ["check_component_names", "check_names", "check_regular", "enclosing_bundle", "hub_blobs"]

_FORBIDDEN = ("\\", ":", "\0")


def check_names(root: Path, names: Iterable[str]) -> None:
    """Refuse everything but plain relative paths with forward slashes, and names that some systems take for one.

    Raises:
        BundleError: As said.
    """
    seen: dict[str, str] = {}
    for name in names:
        _check_relative(root, name)
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise BundleError(
                f"bundle {root}: got the paths {other!r} and {name!r} in its manifest, which are one file on some "
                f"systems; do not trust this bundle"
            )


def check_component_names(root: Path, names: Iterable[str]) -> None:
    """Refuse components that are no plain folder names: folders and records are named after them.

    Raises:
        BundleError: As said.
    """
    for name in names:
        _check_relative(root, name)
        if "/" in name:
            raise BundleError(
                f"bundle {root}: got the component {name!r} in its manifest, expected the name of a folder; "
                f"do not trust this bundle"
            )


def _check_relative(root: Path, name: str) -> None:
    path = PurePosixPath(name)
    plain = name and not path.is_absolute() and str(path) == name
    if not plain or any(part.startswith(".") for part in path.parts) or any(mark in name for mark in _FORBIDDEN):
        raise BundleError(
            f"bundle {root}: got the path {name!r} in its manifest, expected a relative path inside the bundle; "
            f"do not trust this bundle"
        )


def enclosing_bundle(folder: Path) -> Path | None:
    """Find the bundle that a folder is, or lies in: nothing but `build`, `set` and `tune` writes there.

    Args:
        folder: Folder of an output; it need not exist.

    Returns:
        The bundle as the path names it, or its full path where the folder lies deeper in it.
    """
    if (folder / "diffoundry.json").is_file():
        return folder
    place = Path(os.path.realpath(folder))
    return next((parent for parent in (place, *place.parents) if (parent / "diffoundry.json").is_file()), None)


def hub_blobs(root: Path) -> Path | None:
    """Return the folder of the files that a snapshot of the Hugging Face hub's cache links to, or None elsewhere.

    The cache's layout: `models--org--name/snapshots/<commit>/` with links to `models--org--name/blobs/<sum>`.
    """
    place = root.absolute()
    repository = place.parent.parent
    blobs = repository / "blobs"
    known = place.parent.name == "snapshots" and repository.name.startswith(("models--", "datasets--"))
    return blobs if known and blobs.is_dir() and not blobs.is_symlink() else None


def check_regular(root: Path, name: str, blobs: Path | None = None) -> None:
    """Refuse links on the way to a file, and anything that is not a plain file with one name.

    Args:
        root: The bundle's folder.
        name: The file.
        blobs: Folder of a hub's cache that links of the bundle may lead into, whose files may have several names; their
            content is held against the manifest, as that of every file.

    Raises:
        BundleError: As said, or it is missing.
    """
    path, parts = root, PurePosixPath(name).parts
    for index, part in enumerate(parts):
        path = path / part
        try:
            mode = path.lstat()
            if stat.S_ISLNK(mode.st_mode) and blobs is not None and index == len(parts) - 1:
                path = _follow(path, blobs)
                mode = path.lstat()
        except OSError as error:
            raise BundleError(
                f"bundle {root}: the file {name!r} is missing ({error.strerror}); copy the bundle again, whole"
            ) from error
        if stat.S_ISLNK(mode.st_mode):
            raise BundleError(f"bundle {root}: {path} is a symbolic link, expected a plain file; copy it with 'cp -rL'")
    if not stat.S_ISREG(mode.st_mode):
        raise BundleError(f"bundle {root}: {path} is not a plain file; do not trust this bundle")
    if mode.st_nlink > 1 and blobs is None:
        raise BundleError(f"bundle {root}: {path} is a hard link, expected a file of its own; copy it with 'cp -r'")


def _follow(link: Path, blobs: Path) -> Path:
    """Return the blob that a link of a hub's cache leads to; the link where it leads elsewhere.

    Raises:
        OSError: Nothing is there.
    """
    end = link.resolve(strict=True)
    return end if end.parent == blobs.resolve() else link
