"""Finds a bundle by its folder or its id on the Hugging Face hub: in the hub's cache, or downloaded.

The cache is read without a library and without a connection. Downloads need `huggingface_hub`.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.file_checks import check_names
from diffoundry.runtime.bundle.manifest import MANIFEST_NAME, MAX_JSON_BYTES, parse_manifest
from diffoundry.runtime.errors import BundleError

__all__ = ["find_bundle"]

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")

_AT_ONCE = 8
"""Files that are downloaded at the same time, as `huggingface_hub` does."""

_TIMEOUT = 10.0
"""Seconds that the hub has for its first answer."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

_REASONS = {
    "GatedRepoError": "its licence must be accepted on its hub page, and 'hf auth login' run, before it can be "
    "downloaded",
    "RevisionNotFoundError": "the hub has no revision {revision!r} of it; check the word after @",
    "RepositoryNotFoundError": "no folder of this name is here, and the hub has no such repository, or it is private; "
    "check the name, or run 'hf auth login'",
    "EntryNotFoundError": f"the repository has no {MANIFEST_NAME}, so it is no bundle; make one of a checkpoint with "
    "'diffoundry export --model {name} --target onnxruntime -o NAME.bundle'",
}
"""Name of an error of huggingface_hub to what it means here."""


def find_bundle(path: str | os.PathLike[str], *, endpoint: str | None = None) -> Path:
    """Return the folder of a bundle.

    A folder here comes first. "org/name" and "org/name@revision" are looked up in the hub's cache, and downloaded when
    they are not there whole: the manifest, and the files that it lists.

    Args:
        path: A folder, or an id on the hub.
        endpoint: Address of the hub, or None for the user's setting.

    Returns:
        The folder, which may be missing: `Bundle` says so.

    Raises:
        BundleError: It is an id, and cannot be downloaded.
    """
    folder, text = Path(path), os.fspath(path)
    asked = _HUB_ID.fullmatch(text)
    if asked is None or not isinstance(path, str | Path) or os.path.lexists(folder) or folder.parent.is_dir():
        return folder
    name, revision = asked["name"], asked["revision"]
    found = _cached(name, revision)
    return found if found is not None else _download(text, name, revision, endpoint)


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the snapshot in the hub's cache, if every file of its manifest is there."""
    repository = _cache() / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    try:
        commit = reference.read_text(encoding="utf-8").strip()[:64] if reference.is_file() else str(revision)
        snapshot = repository / "snapshots" / commit
        if not _COMMIT.fullmatch(commit) or not (snapshot / MANIFEST_NAME).is_file():
            return None
        names = _listed(snapshot)
    except (OSError, UnicodeError, BundleError):  # a new download says it, or mends it
        return None
    return snapshot if all((snapshot / file).is_file() for file in names) else None


def _cache() -> Path:
    """Return the hub's cache, where `huggingface_hub` has it."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(os.path.expandvars(named)).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(os.path.expandvars(home)).expanduser() if home else base / "huggingface") / "hub"


def _listed(snapshot: Path) -> list[str]:
    """Return the names in a snapshot's manifest, after a check that they lie inside.

    Raises:
        BundleError: The manifest is damaged or hostile.
    """
    path = snapshot / MANIFEST_NAME
    with path.open("rb") as stream:
        manifest = parse_manifest(stream.read(MAX_JSON_BYTES + 1), path)
    check_names(snapshot, manifest.files)
    return [*manifest.files]


def _download(text: str, name: str, revision: str | None, endpoint: str | None) -> Path:
    """Download the manifest, then the files that it lists.

    Raises:
        BundleError: huggingface_hub is not installed, or the hub refuses, with the reason.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise BundleError(
            f"bundle {text!r}: got no folder of this name, and it is not in the hub's cache; 'pip install "
            f"huggingface_hub' to download it, or name a folder"
        ) from error
    options: dict[str, Any] = {"endpoint": endpoint}
    try:  # one question without the retries of a download: most such names are misspelled paths
        huggingface_hub.HfApi(**options).model_info(name, revision=revision, timeout=_TIMEOUT)
    except Exception as error:
        unreached = "so it was taken as a hub id, but the hub cannot be reached ({line}); check the path, connect"
        raise BundleError(f"bundle {text!r}: {_reason(error, name, revision, unreached)}") from error
    try:
        manifest = Path(huggingface_hub.hf_hub_download(name, MANIFEST_NAME, revision=revision, **options))
        fetch = partial(huggingface_hub.hf_hub_download, name, revision=manifest.parent.name, **options)
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            for _ in pool.map(fetch, _listed(manifest.parent)):
                pass
    except BundleError:
        raise
    except Exception as error:
        broken = "and the download from the hub broke off ({line}); connect and run the command again to continue it"
        raise BundleError(f"bundle {text!r}: {_reason(error, name, revision, broken)}") from error
    return manifest.parent


def _reason(error: Exception, name: str, revision: str | None, otherwise: str) -> str:
    """Return the sentence for a refusal of the hub, else `otherwise` with the first line of the error."""
    for kind in type(error).__mro__:
        if kind.__name__ == "LocalEntryNotFoundError":  # also an EntryNotFoundError
            break
        if kind.__name__ in _REASONS:
            return _REASONS[kind.__name__].format(name=name, revision=revision)
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"got no folder of this name here, {otherwise.format(line=line)}, or name a folder"
