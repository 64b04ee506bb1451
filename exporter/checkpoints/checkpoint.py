"""A checkpoint: a diffusers folder, wherever it comes from, checked before anything of it is used."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from diffoundry.exporter.checkpoints.aliases import Alias, package_path, read_aliases
from diffoundry.exporter.checkpoints.controlnets import controlnet_folders, diffusers_index, joined_index
from diffoundry.exporter.checkpoints.weight_files import read_json, resolve_weights
from diffoundry.exporter.component import Component, Config, Configs, Family
from diffoundry.exporter.families.lookup import find_family
from diffoundry.runtime.dims import parse_size
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.records import from_json, to_json
from diffoundry.runtime.specs import FusedLora
from diffoundry.runtime.sums import sha256_of

if TYPE_CHECKING:  # reached lazily: the process that only plans an export stays free of torch
    import torch

__all__ = ["Checkpoint", "Progress", "open_checkpoint"]

Progress = Callable[[str, int, int], None]
"""Called while files are downloaded: (file, bytes so far, bytes in all)."""

_INDEX = "model_index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checked diffusers folder, with its weights or with random ones in their place.

    Attributes:
        name: What the user called it: alias, hub id or folder.
        root: The folder.
        seed: Of random weights, or None when the folder's weights are used.
        model_index: model_index.json.
        family: Found by its pipeline class.
        components: The family's components as they are in this checkpoint, in the order of export.
        loras: What is added to the weights when they are loaded.
        controlnets: Those that are joined to it, as the user called them: folders or aliases.
        outside: Networks to their folders, of those that may lie elsewhere than in the root.
    """

    name: str
    root: Path
    seed: int | None
    model_index: Config
    family: Family
    components: tuple[Component, ...]
    loras: tuple[FusedLora, ...] = ()
    controlnets: tuple[str, ...] = ()
    outside: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def at(cls, root: Path, *, name: str, seed: int | None = None, controlnets: Sequence[str] = ()) -> Self:
        """Open a folder.

        Raises:
            CheckpointError: Something in it is missing, damaged, unknown or not to be trusted.
            ConfigError: A network is configured in a way that is not supported.
        """
        index = read_json(root / _INDEX)
        _check_index(root / _INDEX, index)
        added = controlnet_folders(root, index, controlnets)
        index = joined_index(index, tuple(added))
        family = find_family(index)
        _check_classes(root / _INDEX, index, family)
        for folder in family.folders:
            _check_folder(root / folder)
        configs = _read_configs(root, added, index, family)
        components = tuple(kind.describe(configs) for kind in family.components)
        return cls(
            name=name,
            root=root,
            seed=seed,
            model_index=index,
            family=family,
            components=components,
            controlnets=tuple(controlnets),
            outside=added,
        )

    def describe(self) -> dict[str, Any]:
        """Plain data from which `reopen` makes the same checkpoint in another process."""
        place = {"name": self.name, "root": str(self.root.resolve()), "seed": self.seed}
        joined = list(self.outside.values())[len(self.outside) - len(self.controlnets) :]
        return {**place, "loras": to_json(self.loras), "controlnets": [str(path.resolve()) for path in joined]}

    @classmethod
    def reopen(cls, description: Mapping[str, Any]) -> Self:
        """Open what `describe` described."""
        plain = cls.at(
            Path(description["root"]),
            name=description["name"],
            seed=description["seed"],
            controlnets=description["controlnets"],
        )
        return plain.with_loras(from_json(FusedLora, lora) for lora in description["loras"])

    def with_loras(self, loras: Iterable[FusedLora]) -> Self:
        """The same checkpoint with LoRAs added to its weights."""
        return replace(self, loras=(*self.loras, *loras))

    def with_controlnets(self, controlnets: Sequence[str]) -> Self:
        """The same checkpoint with further ControlNets, whose residuals its denoiser takes.

        Args:
            controlnets: Folders in diffusers' layout, or aliases.

        Raises:
            CheckpointError: One is missing, something else than a ControlNet, or the pipeline takes none.
            ConfigError: One was made for another kind of checkpoint.
        """
        if not controlnets:
            return self
        opened = self.at(self.root, name=self.name, seed=self.seed, controlnets=(*self.controlnets, *controlnets))
        return opened.with_loras(self.loras)

    def folder(self, source: str) -> Path:
        """Where the config and the weights of a network are."""
        return self.outside.get(source, self.root / source)

    def component(self, name: str) -> Component:
        """The component called `name`."""
        return next(component for component in self.components if component.name == name)

    def load(self, name: str) -> "torch.nn.Module":
        """Build a torch module in fp32 for inference, with its weights.

        Args:
            name: A component, or the folder that holds it; both halves of a VAE give the whole VAE.

        Raises:
            CheckpointError: Weights are missing, damaged, pickled, or do not fit the config.
            InputError: A LoRA does not fit the networks.
        """
        from diffoundry.exporter.checkpoints.weights import load_weights, random_weights

        source = next((component.source for component in self.components if component.name == name), name)
        if self.seed is not None:
            module = random_weights(self.folder(source), self._module_class(source), self.seed)
        else:
            module = load_weights(self.folder(source), self._module_class(source))
        if self.loras:
            from diffoundry.exporter.checkpoints.fuse_lora import fuse_loras

            present = {component.source for component in self.components}
            fuse_loras(module, source, self.loras, read_json(self.folder(source) / "config.json"), present)
        return module

    @cached_property
    def scheduler_config(self) -> Config:
        """scheduler/scheduler_config.json."""
        return read_json(self.root / "scheduler/scheduler_config.json")

    @property
    def tokenizer_folders(self) -> tuple[str, ...]:
        """The folders of the tokenizers, in the checkpoint and in the bundle."""
        return tuple(folder for folder in self.family.folders if folder.startswith("tokenizer"))

    @property
    def dim_multiples(self) -> dict[str, int]:
        """Symbol ("height", "width") to the number that it must be a multiple of; absent where any number will do."""
        shapes = [spec.shape for component in self.components for spec in component.inputs]
        sizes = [parse_size(dim) for shape in shapes for dim in shape if isinstance(dim, str)]
        parts = [size for size in sizes if size.divisor > 1 and not size.up]
        return {part.symbol: max(p.divisor for p in parts if p.symbol == part.symbol) for part in parts}

    def identity(self) -> dict[str, str]:
        """What the networks were made of: SHA-256 of configs and weights, or of configs with the seed."""
        sources = sorted({component.source for component in self.components})
        files = {f"{source}/config.json": self.folder(source) / "config.json" for source in sources}
        if self.seed is None:
            for source in sources:
                folder = self.folder(source)
                weights = resolve_weights(folder, self._module_class(source).partition(":")[0])
                files |= {f"{source}/{file}": folder / file for file in weights.files}
        sums = {file: sha256_of(path) for file, path in files.items()}
        sums |= {f"lora {lora.file}:{lora.scale:g}": lora.sha256 for lora in self.loras}
        return sums if self.seed is None else {"random_weights_seed": str(self.seed), **sums}

    def bundle_files(self) -> list[tuple[Path, str]]:
        """What a bundle carries over as it is: (file, its path in the bundle)."""
        files = [
            (self.folder(component.source) / "config.json", f"{component.name}/config.json")
            for component in self.components
        ]
        for folder in self.family.folders:
            texts = sorted(path for path in (self.root / folder).iterdir() if path.suffix in (".json", ".txt"))
            files += [(path, f"{folder}/{path.name}") for path in texts]
        return files

    def bundle_model_index(self) -> dict[str, Any]:
        """model_index.json without the parts that a bundle does not hold."""
        whole = diffusers_index(self.model_index)
        index = {name: [None, None] if name in self._left_out() else entry for name, entry in whole.items()}
        return {**index, "requires_safety_checker": False} if "requires_safety_checker" in index else index

    def notices(self) -> list[str]:
        """What the user should know about a bundle of this checkpoint."""
        notices = [f"{name} of the checkpoint is left out: it is not supported yet" for name in self._left_out()]
        if self.seed is not None:
            notices.append(f"weights are random (seed {self.seed}): good for measuring, not for pictures")
        if self.root.is_relative_to(package_path("exporter/configs")):
            notices.append("the tokenizer's vocabulary is synthetic, of CLIP's size: see docs/checkpoints.md")
        return notices

    def _left_out(self) -> list[str]:
        kept = {*self.family.folders, *(component.source for component in self.components)}
        parts = {name for name, entry in self.model_index.items() if isinstance(entry, list) and any(entry)}
        return sorted(parts - kept)

    def _module_class(self, source: str) -> str:
        return ":".join(self.model_index[source])


def open_checkpoint(
    model: str,
    *,
    random_weights: bool = False,
    seed: int = 0,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Find a checkpoint by what the user calls it, download it when it is on the hub, and check it.

    Args:
        model: An alias, a diffusers folder, or a hub id ("organisation/name").
        random_weights: Build the networks of an alias or a folder with random weights; nothing is downloaded.
        seed: Of the random weights.
        revision: Branch, tag or commit on the hub.
        progress: Told of the download.

    Raises:
        CheckpointError: It cannot be found, read or trusted; the message is one sentence.
        ConfigError: A network is configured in a way that is not supported.
    """
    alias = read_aliases().get(model)
    if alias is not None and alias.configs is None:
        raise CheckpointError(f"model {model!r}: got the alias of a ControlNet, expected {_forms()}")
    if random_weights:
        root = package_path(alias.configs) if alias is not None and alias.configs is not None else Path(model)
        if not root.is_dir():
            raise CheckpointError(f"model {model!r}: got no config to build with random weights, expected {_forms()}")
        return Checkpoint.at(root, name=model, seed=seed)
    return Checkpoint.at(_find_root(model, alias, revision, progress), name=model)


def _find_root(model: str, alias: Alias | None, revision: str | None, progress: Progress | None) -> Path:
    if alias is not None and alias.folder is not None:
        return package_path(alias.folder)
    path = Path(model)
    if alias is None and model and path.is_dir():
        return path
    if alias is None and path.is_file():
        raise CheckpointError(
            f"model {model!r}: got a single file, expected {_forms()}; convert it with diffusers' "
            f"StableDiffusionPipeline.from_single_file('FILE').save_pretrained('FOLDER')"
        )
    if alias is None and not _HUB_ID.fullmatch(model):
        raise CheckpointError(f"model {model!r}: not found, expected {_forms()}")
    from diffoundry.exporter.checkpoints.hub import download

    return download((alias.hub if alias else None) or model, revision, progress)


def _forms() -> str:
    names = sorted(name for name, alias in read_aliases().items() if alias.configs is not None)
    return f"a diffusers folder, a hub id such as org/name, or an alias ({', '.join(names)})"


def _check_index(path: Path, index: Config) -> None:
    if not isinstance(index.get("_class_name"), str):
        raise CheckpointError(f"{path}: got no '_class_name', expected the name of a diffusers pipeline; it is damaged")
    for key, entry in index.items():
        for text in (key, *(entry if isinstance(entry, list) else [])):
            if isinstance(text, str) and (".." in text or "/" in text or "\\" in text):
                raise CheckpointError(f"{path}: names {text!r}, expected no path; the checkpoint is not trusted")


def _check_classes(path: Path, index: Config, family: Family) -> None:
    for kind in family.components:
        entry = index.get(kind.source)
        found = ":".join(str(part) for part in entry) if isinstance(entry, list) else str(entry)
        if found not in kind.classes:
            raise CheckpointError(
                f"{path}: component {kind.source!r}: got {found}, expected {' or '.join(kind.classes)} "
                f"in a {index['_class_name']}"
            )


def _read_configs(root: Path, outside: Mapping[str, Path], index: Config, family: Family) -> Configs:
    folders = {kind.source: outside.get(kind.source, root / kind.source) for kind in family.components}
    for source, folder in folders.items():
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: is missing, expected the folder of {index[source][1]}; the checkpoint is incomplete"
            )
    return {source: read_json(folder / "config.json") for source, folder in folders.items()}


def _check_folder(folder: Path) -> None:
    if folder.name.startswith("tokenizer"):
        complete = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
        if not (complete or (folder / "tokenizer.json").is_file()):
            raise CheckpointError(
                f"{folder}: got no vocabulary, expected tokenizer.json, or vocab.json with merges.txt; "
                f"the checkpoint is incomplete"
            )
    elif folder.name == "scheduler":
        read_json(folder / "scheduler_config.json")
