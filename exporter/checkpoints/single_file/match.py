"""Matches a network's weights with a single file's tensors, by names and shapes alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffoundry.exporter.checkpoints.json_files import name_some
from diffoundry.exporter.checkpoints.single_file.architectures import FilePart
from diffoundry.exporter.checkpoints.single_file.names import Place, place_weights, unused_in
from diffoundry.exporter.component import Config
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.safetensors import TensorEntry

__all__ = ["Match", "match_part"]

_FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Every weight of a network in a single file.

    Attributes:
        prefix: Prefix of the network's tensors.
        places: Weight name in the torch module's state dict to its place.
    """

    prefix: str
    places: Mapping[str, Place]


def match_part(
    path: Path,
    owner: str,
    part: FilePart,
    entries: Mapping[str, TensorEntry],
    wanted: Mapping[str, tuple[int, ...]],
    config: Config,
) -> Match:
    """Find every weight of a network.

    Args:
        path: Used in messages.
        owner: Architecture of the file, or other owner of the network.
        part: The network.
        entries: All tensors of the file.
        wanted: Weight of the torch module to its shape.
        config: The network's config.json.

    Raises:
        CheckpointError: Tensors are missing, of another shape or type, or belong to no weight of the network.
    """
    prefix = next(start for start in part.prefixes if any(name.startswith(start) for name in entries))
    layout = part.layout
    if layout == "clip" and not any(name.startswith(f"{prefix}text_model.") for name in entries):
        layout = "clip_bare"
    places = place_weights(layout, wanted.keys(), config)
    what = f"the {part.title} of {owner}"
    missing = [name for name in wanted if name not in places]
    missing += [prefix + place.name for place in places.values() if prefix + place.name not in entries]
    if missing:
        raise CheckpointError(
            f"{path}: weights are missing: {name_some(missing)}; got a file without them, expected all of {what}; the "
            f"file is incomplete or of another architecture"
        )
    for name, place in places.items():
        _check(path, what, prefix + place.name, entries[prefix + place.name], place, wanted[name])
    used = {prefix + place.name for place in places.values()}
    left = [
        name
        for name in entries
        if name.startswith(prefix) and name not in used and not unused_in(layout, name.removeprefix(prefix), config)
    ]
    if left:
        raise CheckpointError(
            f"{path}: got tensors that belong to no weight: {name_some(left)}; expected none beside those of {what}; "
            f"the file is of another architecture"
        )
    return Match(prefix=prefix, places=places)


def _check(path: Path, what: str, name: str, entry: TensorEntry, place: Place, wanted: tuple[int, ...]) -> None:
    if entry.dtype not in _FLOATS:
        raise CheckpointError(
            f"{path}: tensor {name}: got the type {entry.dtype}, expected one of {', '.join(_FLOATS)}; quantized files "
            f"are not read, fetch one in fp16 or more"
        )
    taken = place.extract(np.broadcast_to(np.float32(0), entry.shape)).shape
    if taken != wanted:
        raise CheckpointError(
            f"{path}: tensor {name}: got shape {entry.shape}, expected one for the weight {wanted} of {what}; the file "
            f"is of another architecture"
        )
