"""Downloads the files that an export needs from the Hugging Face hub."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import tqdm

from diffoundry.exporter.checkpoints.controlnets import joined_index, own_controlnets
from diffoundry.exporter.checkpoints.flat_folder import SCHEDULER_CONFIG, flat_network
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.t2i_adapters import index_with_t2i_adapters, own_t2i_adapters
from diffoundry.exporter.checkpoints.tokenizer_files import ENDINGS
from diffoundry.exporter.checkpoints.weight_files import base_library, choose_weights, read_shards
from diffoundry.exporter.families.lookup import find_family
from diffoundry.runtime.errors import CheckpointError

__all__ = ["download"]

_TIMEOUT = 10.0
"""Timeout in seconds for the hub's first answer."""

_INDEX = "model_index.json"

_Fetch = Callable[[str], Path]


def download(
    repository: str,
    revision: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    endpoint: str | None = None,
    variant: str | None = None,
    without: Collection[str] = (),
) -> Path:
    """Download a repository's configs, tokenizer and weights to the hub's local cache and return the folder there.

    Full precision weights are preferred to fp16. Other copies in the repository (pickles, EMA, other frameworks) and
    parts that are not exported are not downloaded. Without a connection the cache is used.

    Args:
        repository: "organisation/name".
        revision: Branch, tag or commit, or None for the main branch.
        progress: Called with (file, bytes so far, bytes in all).
        endpoint: Address of the hub, or None for the user's setting.
        variant: As in `choose_weights`.
        without: Components that are not downloaded.

    Raises:
        CheckpointError: The repository cannot be reached and is not in the cache, or holds no safetensors checkpoint.
    """
    try:
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision, files_metadata=True, timeout=_TIMEOUT)
    except Exception as error:  # noqa: BLE001  # which HTTP library raises here depends on the hub library's version
        return _from_cache(repository, revision, error)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}

    def fetch(name: str, at: str | None = info.sha) -> Path:
        if name not in sizes:
            raise CheckpointError(
                f"model {repository!r}: got a repository without {name}, expected a diffusers checkpoint"
            )
        bar = _progress_bar(progress, name, sizes[name]) if progress else None
        return Path(hf_hub_download(repository, name, revision=at, endpoint=endpoint, tqdm_class=bar))

    try:
        fetch(_INDEX, revision)  # by its branch, so that the cache records the branch's commit
        return _fetch_all(repository, sizes, fetch, variant, without)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"model {repository!r}: the download broke off ({_reason(error)}); run the command again to continue it"
        ) from error


def _fetch_all(
    repository: str, names: Collection[str], fetch: _Fetch, variant: str | None, without: Collection[str]
) -> Path:
    """Fetch the files that an export reads, and return their folder."""
    index = fetch(_INDEX)
    held = read_json(index)
    folders = {name.partition("/")[0] for name in names}
    joined = joined_index(held, own_controlnets(held, folders))
    family = find_family(index_with_t2i_adapters(joined, own_t2i_adapters(held, folders)), without)
    for name in sorted(names):
        if name.partition("/")[0] in family.folders and name.endswith(ENDINGS):
            fetch(name)
    flat = flat_network(held, folders) if "config.json" in names else None
    if flat is not None and SCHEDULER_CONFIG in names:
        fetch(SCHEDULER_CONFIG)
    kinds = (kind for kind in family.components if kind.source not in without)
    libraries = {kind.source: base_library(*kind.classes[0].split(":")) for kind in kinds}
    for source, library in {**libraries, **dict.fromkeys(family.weight_folders, "diffusers")}.items():
        place = "" if source == flat else f"{source}/"
        fetch(f"{place}config.json")
        inside = [name.removeprefix(place) for name in names if name.startswith(place)]
        weights = choose_weights(f"{repository}/{source}", inside, library, variant).name
        path = fetch(f"{place}{weights}")
        for shard in read_shards(path).names if weights.endswith(".json") else ():
            fetch(f"{place}{shard}")
    return index.parent


def _from_cache(repository: str, revision: str | None, error: Exception) -> Path:
    """Find an earlier download of the repository when the hub does not answer."""
    if isinstance(error, HFValidationError):
        raise CheckpointError(f"model {repository!r}: is no valid hub id ({_reason(error)})") from error
    if isinstance(error, GatedRepoError):
        raise CheckpointError(
            f"model {repository!r}: its licence must be accepted on its hub page, and `hf auth login` run, before "
            f"it can be downloaded"
        ) from error
    if isinstance(error, RevisionNotFoundError):
        raise CheckpointError(f"model {repository!r}: the hub has no revision {revision!r} of it") from error
    if isinstance(error, RepositoryNotFoundError):
        raise CheckpointError(
            f"model {repository!r}: is no folder here and not on the hub, or private; check the name, or run "
            f"`hf auth login`"
        ) from error
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[_INDEX], local_files_only=True))
    except OSError:
        raise CheckpointError(
            f"model {repository!r}: no folder or file {repository} here, so it was taken as a hub id, but the hub "
            f"cannot be reached ({_reason(error)}) and the model was not downloaded before; check the path, connect, "
            f"or download it elsewhere with `hf download {repository}` and pass the folder"
        ) from error


def _progress_bar(progress: Callable[[str, int, int], None], name: str, size: int) -> type[tqdm]:
    """Make a progress bar class for the hub library that only reports."""

    class Reporter(tqdm):  # type: ignore[misc]  # the library has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self._sum = int(kwargs.get("initial") or 0)
            progress(name, self._sum, size)

        def update(self, n: float | None = 1) -> None:
            self._sum += int(n or 0)
            progress(name, self._sum, size)

    return Reporter


def _reason(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
