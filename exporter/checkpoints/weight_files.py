"""Chooses the files of a component's weights: safetensors only, whole or in shards, full precision before fp16."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.untrusted_json import load_json

__all__ = ["PICKLES", "WeightFiles", "choose_weights", "name_some", "read_json", "read_shards", "resolve_weights"]

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model", "stable_diffusion": "model"}
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
"""Suffixes of files that can run code when they are read."""

_LISTED = 5
"""Number of weight names listed in a message."""

_CONVERSION = (
    "from diffusers import DiffusionPipeline; "
    "DiffusionPipeline.from_pretrained('FOLDER').save_pretrained('NEW_FOLDER', safe_serialization=True)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """A component's weights.

    Attributes:
        variant: "fp16", or None for the files without a variant in their names.
        files: Names of the safetensors files, all in the component's folder.
    """

    variant: str | None
    files: tuple[str, ...]


def choose_weights(folder: str, names: Collection[str], library: str) -> tuple[str | None, str]:
    """Choose among the file names of a component's folder: (variant, the file or index to read).

    Args:
        folder: Used in messages.
        names: File names, without folder.
        library: "diffusers" or "transformers", which name their weights differently, or "stable_diffusion", a package
            of diffusers whose network has transformers' names.

    Raises:
        CheckpointError: There are no weights, or only pickled ones.
    """
    stem = _STEMS[library]
    for variant in (None, "fp16"):
        middle = f".{variant}" if variant else ""
        # With both a file and an index, the libraries differ in their choice.
        single, index = f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"
        for name in (index, single) if library == "diffusers" else (single, index):
            if name in names:
                return variant, name
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise CheckpointError(
            f"{folder}/{pickles[0]}: weights are pickled, which can run code when read, and are refused; expected "
            f"{stem}.safetensors; convert a checkpoint that you trust with: {_CONVERSION}"
        )
    raise CheckpointError(
        f"{folder}: no weights found, expected {stem}.safetensors; the download is incomplete or this is another format"
    )


def resolve_weights(folder: Path, library: str) -> WeightFiles:
    """Find the weight files of a component's folder; all of them exist.

    Raises:
        CheckpointError: Weights are missing or pickled, or an index names a file that is missing or outside.
    """
    variant, chosen = choose_weights(str(folder), {path.name for path in folder.iterdir()}, library)
    if not chosen.endswith(".json"):
        return WeightFiles(variant=variant, files=(chosen,))
    files = read_shards(folder / chosen)
    for name in files:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / chosen}: names the file {name!r}, which is missing; the download is incomplete"
            )
    return WeightFiles(variant=variant, files=files)


def read_shards(index: Path) -> tuple[str, ...]:
    """Read the file names in an index of shards; each is a plain name, so none leads outside.

    Raises:
        CheckpointError: The index is damaged, or names anything else.
    """
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, Mapping) or not shards:
        raise CheckpointError(f"{index}: got no 'weight_map', expected tensor names with their files; it is damaged")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: names the file {name!r}, expected a .safetensors file in the same folder; it is not trusted"
            )
    return tuple(names)


def name_some(names: Sequence[str]) -> str:
    """List the first of many names, for messages: "a, b and 3 more"."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    some = (name[:100] if name.isprintable() else repr(name[:100]) for name in names[:_LISTED])
    return ", ".join(some) + more


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: The file is missing, or holds something else.
    """
    try:
        value = load_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); the checkpoint is incomplete") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is no valid JSON ({error}); the file is damaged") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: got {type(value).__name__}, expected a JSON object; the file is damaged")
    return value
