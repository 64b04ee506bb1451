"""The places that a network's weights come from: a folder, a single file, or a seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from diffoundry.exporter.checkpoints.single_file.architectures import FilePart
from diffoundry.exporter.checkpoints.weight_headers import FLOAT8, WeightFiles, float8_note
from diffoundry.runtime.formats.safetensors import Safetensors

if TYPE_CHECKING:  # reached lazily: the process that only plans an export stays free of torch
    import torch

__all__ = ["FileWeights", "FolderWeights", "RandomWeights", "WeightSource"]


class WeightSource(Protocol):
    """A network's config and weights.

    Attributes:
        folder: Folder with config.json.
    """

    @property
    def folder(self) -> Path:
        """See above."""

    def load(self, module_class: str, *, deferred: bool = False) -> "torch.nn.Module":
        """Build the network's torch module in fp32 for inference.

        Args:
            module_class: "library:class".
            deferred: True reads, widens or draws each large weight when `deferred_weights` asks for it.

        Raises:
            CheckpointError: Weights are missing, or do not fit the config.
        """

    def files(self) -> Mapping[str, Path]:
        """Map names in a recipe to the files of the weights, without config.json."""

    def notices(self, name: str) -> list[str]:
        """Notes for the user; `name` is that of the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderWeights:
    """Weights in diffusers' layout.

    Attributes:
        folder: Folder with config.json and the weights.
        weights: The files.
        wanted: The variant that the user asked for, or None.
    """

    folder: Path
    weights: WeightFiles
    wanted: str | None = None

    def load(self, module_class: str, *, deferred: bool = False) -> "torch.nn.Module":
        """See `WeightSource.load`."""
        from diffoundry.exporter.checkpoints.weights import load_weights

        return load_weights(self.folder, module_class, self.weights, deferred=deferred)

    def files(self) -> Mapping[str, Path]:
        """See `WeightSource.files`."""
        return {name: self.folder / name for name in self.weights.files}

    def notices(self, name: str) -> list[str]:
        """See `WeightSource.notices`: another variant than asked for, and float8 weights."""
        notes = [float8_note(name, self.weights.types)]
        found = self.weights.choice.variant
        if found != self.wanted:
            asked = f"no variant {self.wanted!r}" if self.wanted else "no files without a variant"
            used = f"the variant {found!r} is used" if found else "its files without one are used"
            notes.insert(0, f"{name} has {asked}; {used}")
        return [note for note in notes if note is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileWeights:
    """Weights in a single file, under the names of the original code.

    Attributes:
        folder: Folder with config.json.
        file: Header of the file.
        part: Position of the network in the file.
        owner: Architecture or file that the network belongs to, for messages.
        own: True if the file holds this network alone, so that it counts for the network; otherwise the checkpoint
            counts it once.
    """

    folder: Path
    file: Safetensors
    part: FilePart
    owner: str
    own: bool = False

    def load(self, module_class: str, *, deferred: bool = False) -> "torch.nn.Module":
        """See `WeightSource.load`."""
        from diffoundry.exporter.checkpoints.single_file.loading import load_part

        return load_part(self.file, self.owner, self.part, self.folder, module_class, deferred=deferred)

    def files(self) -> Mapping[str, Path]:
        """See `WeightSource.files`."""
        return {self.file.path.name: self.file.path} if self.own else {}

    def notices(self, name: str) -> list[str]:
        """See `WeightSource.notices`: float8 weights."""
        types = {entry.dtype for tensor, entry in self.file.entries.items() if tensor.startswith(self.part.prefixes)}
        note = float8_note(name, types & set(FLOAT8))
        return [] if note is None else [note]


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomWeights:
    """Random weights.

    Attributes:
        folder: Folder with config.json.
        seed: The checkpoint's seed.
    """

    folder: Path
    seed: int

    def load(self, module_class: str, *, deferred: bool = False) -> "torch.nn.Module":
        """See `WeightSource.load`."""
        from diffoundry.exporter.checkpoints.weights import random_weights

        return random_weights(self.folder, module_class, self.seed, deferred=deferred)

    def files(self) -> Mapping[str, Path]:
        """See `WeightSource.files`."""
        return {}

    def notices(self, name: str) -> list[str]:  # noqa: ARG002
        """See `WeightSource.notices`."""
        return []
