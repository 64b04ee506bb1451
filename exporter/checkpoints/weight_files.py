"""Chooses the files of a network's weights: safetensors only, of one variant, whole or in shards."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.runtime.errors import CheckpointError

__all__ = [
    "PICKLES",
    "VARIANT",
    "Choice",
    "Shards",
    "base_library",
    "choose_weights",
    "read_shards",
    "weight_stem",
]

VARIANT = "variant"
"""Key of the variant among a recipe's sources, where the user passed one."""

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}

_BASES = {
    "IFSafetyChecker": "transformers",
    "LDMBertModel": "transformers",
    "MultilingualCLIP": "transformers",
    "StableDiffusionSafetyChecker": "transformers",
}
"""Classes of diffusers' pipelines that are models of transformers, as they save them."""

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
"""Suffixes of files that can run code when they are read."""

_SHARD = re.compile(r".*\d{5}-of-\d{5}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The weights chosen in one folder.

    Attributes:
        variant: "fp16", "bf16", "non_ema" ..., or None for the files without a variant in their names.
        name: The safetensors file, or the index of its shards.
    """

    variant: str | None
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """The content of an index.

    Attributes:
        names: File names, each without a folder, so none leads outside.
        places: Tensor to the file that holds it.
    """

    names: tuple[str, ...]
    places: Mapping[str, str]


def base_library(library: str, name: str) -> str:
    """Return the library, "diffusers" or "transformers", that builds, saves and loads a class.

    Args:
        library: As model_index.json names it: one of both, or a package of diffusers' pipelines.
        name: The class.
    """
    return library if library == "transformers" else _BASES.get(name, "diffusers")


def weight_stem(library: str) -> str:
    """Return the first part of the names of weight files.

    Args:
        library: "diffusers" or "transformers", which name their weights differently.
    """
    return _STEMS[library]


def choose_weights(folder: str, names: Collection[str], library: str, variant: str | None = None) -> Choice:
    """Choose among the file names of a network's folder.

    A folder without the wanted variant gives its files without one, as in diffusers, then fp16, then its only variant.

    Args:
        folder: Used in messages.
        names: File names, without folder.
        library: As in `weight_stem`.
        variant: Wanted variant; None prefers files without one.

    Raises:
        CheckpointError: There are no weights, only pickled ones, or several variants to choose from.
    """
    stem = weight_stem(library)
    # With both a file and an index, the libraries differ in their choice.
    ordered = sorted(names, key=lambda name: _order(name, library))
    found = {kind: name for name in ordered for kind in _kinds(name, stem)}
    for wanted in (variant, None, "fp16"):
        if wanted in found:
            return Choice(variant=wanted, name=found[wanted])
    variants = [kind for kind in found if kind is not None]
    if len(variants) == 1:
        return Choice(variant=variants[0], name=found[variants[0]])
    if variants:
        raise CheckpointError(
            f"{folder}: got weights in the variants {' and '.join(sorted(variants))} and none without a variant; "
            f"choose one with --variant"
        )
    raise _no_weights(folder, names, stem)


def _order(name: str, library: str) -> tuple[bool, str]:
    """Sort a preferred name last."""
    return name.endswith(".json") == (library == "diffusers"), name


def _kinds(name: str, stem: str) -> list[str | None]:
    """Return [variant] of a file that holds or indexes weights, [None] of one without a variant, [] of another file.

    diffusers: `_add_variant`, `_fetch_index_file_legacy`.
    """
    variant = r"(?:\.(?P<variant>[\w-]+))?"
    forms = (
        rf"{stem}{variant}\.safetensors",
        rf"{stem}\.safetensors\.index{variant}\.json",
        rf"{stem}\.safetensors{variant}\.index\.json",
    )
    match = next((match for form in forms if (match := re.fullmatch(form, name))), None)
    if match is None or _SHARD.fullmatch(match["variant"] or ""):
        return []
    return [match["variant"]]


def _no_weights(folder: str, names: Collection[str], stem: str) -> CheckpointError:
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        return CheckpointError(
            f"{folder}/{pickles[0]}: weights are pickled, which can run code when read, and are refused; expected "
            f"{stem}.safetensors; rewrite a checkpoint that you trust with 'diffoundry convert CHECKPOINT -o NEW'"
        )
    shards = sorted(name for name in names if name.endswith(".safetensors") and _SHARD.match(name))
    if shards:
        return CheckpointError(
            f"{folder}: got {shards[0]} without {stem}.safetensors.index.json, which says what each file holds; the "
            f"download is incomplete, download the folder again"
        )
    return CheckpointError(
        f"{folder}: no weights found, expected {stem}.safetensors; the download is incomplete or this is another format"
    )


def read_shards(index: Path) -> Shards:
    """Read an index of shards.

    Raises:
        CheckpointError: The index is damaged, or names anything but safetensors files beside it.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise CheckpointError(f"{index}: got no 'weight_map', expected tensor names with their files; it is damaged")
    places = {str(tensor): str(name) for tensor, name in places.items()}
    names = sorted(set(places.values()))
    for name in names:
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: names the file {name!r}, expected a .safetensors file in the same folder; it is not trusted"
            )
    return Shards(names=tuple(names), places=places)
