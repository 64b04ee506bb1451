"""The content of a checkpoint: its networks, their weights, and the files that a bundle copies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffoundry.exporter.checkpoints.controlnets import diffusers_index
from diffoundry.exporter.checkpoints.ip_adapter_weights import IPAdapterWeights, add_image_prompts
from diffoundry.exporter.checkpoints.ip_adapters import saved_ip_adapters
from diffoundry.exporter.checkpoints.json_files import is_number_list, read_json
from diffoundry.exporter.checkpoints.pipeline_override import PIPELINE
from diffoundry.exporter.checkpoints.single_file import SingleFile
from diffoundry.exporter.checkpoints.t2i_adapters import saved_t2i_adapters
from diffoundry.exporter.checkpoints.tokenizer_files import holds_tokenizer, write_tokenizer
from diffoundry.exporter.checkpoints.transformer_override import TRANSFORMER
from diffoundry.exporter.checkpoints.weight_files import VARIANT, choose_weights, weight_stem
from diffoundry.exporter.checkpoints.weight_sources import WeightSource
from diffoundry.exporter.component import Component, Config, FamilyDeclaration
from diffoundry.exporter.families.lookup import names_component
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, FusedLora
from diffoundry.runtime.models.roles import DENOISER

if TYPE_CHECKING:  # reached lazily: the process that only plans an export stays free of torch
    import torch

__all__ = ["SEED", "CheckpointContents"]

SEED = "random_weights_seed"
"""Name of the seed among a recipe's sources."""


@dataclass(frozen=True, kw_only=True)
class CheckpointContents:
    """The configs, networks and weights of a checkpoint.

    Attributes:
        name: The user's name for it: alias, hub id, folder or file.
        root: The folder.
        seed: Seed of random weights, or None when the folder's weights are used.
        model_index: model_index.json.
        family: FamilyDeclaration of its pipeline class.
        components: The family's components as configured in this checkpoint, in the order of export.
        loras: LoRAs added to the weights when they are loaded.
        controlnets: Joined ControlNets by the user's names: folders, files or aliases.
        t2i_adapters: Folders of joined T2I-Adapters.
        ip_adapters: Files of joined IP-Adapters, or folders with one each.
        image_encoder: Folder of the image encoder of IP-Adapters, by the user's name; None for the usual place.
        without: Optional components that are left out although the folder has them, such as "safety_checker".
        vae: VAE that replaces the checkpoint's own, by the user's name; None for its own.
        transformer: File with the transformer that replaces the checkpoint's own, by the user's name; None for its own.
        pipeline: Pipeline class that the user asked for, or None for that of model_index.json.
        variant: Variant of the weight files that the user asked for, such as "fp16"; None for files without one.
        file: Single file that holds the weights, or None.
        sources: Networks (folders in diffusers' layout) to their configs and weights.
        attention_control: True if the UNet takes edits of its attention.
    """

    name: str
    root: Path
    seed: int | None
    model_index: Config
    family: FamilyDeclaration
    components: tuple[Component, ...]
    loras: tuple[FusedLora, ...] = ()
    controlnets: tuple[str, ...] = ()
    t2i_adapters: tuple[str, ...] = ()
    ip_adapters: tuple[str, ...] = ()
    image_encoder: str | None = None
    without: tuple[str, ...] = ()
    vae: str | None = None
    transformer: str | None = None
    pipeline: str | None = None
    variant: str | None = None
    file: SingleFile | None = None
    sources: Mapping[str, WeightSource] = field(default_factory=dict)
    attention_control: bool = False

    def folder(self, source: str) -> Path:
        """Folder with the config and the weights of a network."""
        return self.sources[source].folder

    def component(self, name: str) -> Component:
        """Find a component by name."""
        return next(component for component in self.components if component.name == name)

    def with_role(self, role: str) -> tuple[Component, ...]:
        """The components with a role, one of `runtime.models.roles.ROLES`."""
        return tuple(component for component in self.components if component.role == role)

    def load(self, name: str, *, deferred: bool = False) -> "torch.nn.Module":
        """Build a torch module in fp32 for inference, with its weights.

        Args:
            name: A component, or its folder; both halves of a VAE give the whole VAE.
            deferred: True for a module to trace: large weights take no memory until `deferred_weights` reads them.

        Raises:
            CheckpointError: Weights are missing, damaged, pickled, or do not fit the config.
            InputError: A LoRA does not fit the networks.
        """
        source = next((component.source for component in self.components if component.name == name), name)
        module = self.sources[source].load(self._module_class(source), deferred=deferred)
        if self.loras:
            from diffoundry.exporter.checkpoints.fuse_lora import fuse_loras

            present = {component.source for component in self.components}
            config = read_json(self.folder(source) / "config.json")
            fuse_loras(module, source, self.loras, config, present, deferred=deferred)
        if getattr(getattr(module, "config", None), "use_pos_embed", True) is False:
            from diffoundry.exporter.checkpoints.shared_positions import share_positions

            share_positions(module, self.sources["transformer"], self._module_class("transformer"))
        if type(module).__name__ == "ZImageControlNetModel":
            from diffoundry.exporter.checkpoints.shared_layers import share_layers

            share_layers(module, self.load("transformer", deferred=True), deferred=deferred)
        adapters = [found for found in self.sources.values() if isinstance(found, IPAdapterWeights)]
        if adapters and any(part.role == DENOISER and part.source == source for part in self.components):
            add_image_prompts(module, adapters)
        return module

    @cached_property
    def scheduler_configs(self) -> Mapping[str, Config]:
        """Folder of each scheduler to its scheduler_config.json."""
        folders = [folder for folder in self.family.folders if folder.endswith("scheduler")]
        return {folder: read_json(self.root / folder / "scheduler_config.json") for folder in folders}

    @property
    def scheduler_config(self) -> Config:
        """scheduler_config.json of the main scheduler, the last where there are several."""
        return list(self.scheduler_configs.values())[-1]

    @property
    def tokenizer_folders(self) -> tuple[str, ...]:
        """Folders of the tokenizers, in the checkpoint and in the bundle."""
        return tuple(folder for folder in self.family.folders if holds_tokenizer(folder, self.model_index))

    @property
    def dims(self) -> dict[str, DimSpec]:
        """Map "height" and "width" to the sizes that every component supports; a symbol without limits is absent."""
        shapes = [spec.shape for component in self.components for spec in component.inputs]
        sizes = [parse_size(dim) for shape in shapes for dim in shape if isinstance(dim, str)]
        parts = [(size.symbol, DimSpec(multiple_of=size.divisor)) for size in sizes if size.divisor > 1 and not size.up]
        dims: dict[str, DimSpec] = {}
        for symbol, dim in (*parts, *(item for component in self.components for item in component.sizes.items())):
            dims[symbol] = _both(dims.get(symbol, DimSpec()), dim)
        return dims

    def identity(self) -> dict[str, str]:
        """Checksums of the networks' sources: SHA-256 of configs and weights, or of configs with the seed."""
        files: dict[str, Path] = {}
        for source, found in sorted(self.sources.items()):
            files[f"{source}/config.json"] = found.folder / "config.json"
            files |= {f"{source}/{name}": path for name, path in found.files().items()}
        sums = {file: sha256_of(path) for file, path in files.items()}
        sums |= {} if self.file is None else self.file.identity()
        sums |= {f"lora {lora.file}:{lora.scale:g}": lora.sha256 for lora in self.loras}
        named = {VARIANT: self.variant, TRANSFORMER: self.transformer, PIPELINE: self.pipeline}
        asked = {name: value for name, value in named.items() if value is not None}
        return {**asked, **sums} if self.seed is None else {SEED: str(self.seed), **asked, **sums}

    def bundle_files(self) -> list[tuple[Path, str]]:
        """List the files that a bundle copies unchanged: (file, its path in the bundle)."""
        files = [
            (self.folder(component.source) / "config.json", f"{component.name}/config.json")
            for component in self.components
        ]
        for folder in self.family.folders:
            texts = sorted(path for path in (self.root / folder).iterdir() if path.suffix in (".json", ".txt"))
            files += [(path, f"{folder}/{path.name}") for path in texts]
        for folder in self.weight_folders:
            place = self.root / folder
            names = {path.name for path in place.iterdir()} if place.is_dir() else set()
            weights = choose_weights(str(place), names, "diffusers", self.variant).name
            files.append((place / "config.json", f"{folder}/config.json"))
            files.append((place / weights, f"{folder}/{weight_stem('diffusers')}.safetensors"))
        return files

    def write_tokenizer(self, folder: str, target: Path) -> None:
        """Complete a copied tokenizer for the runtime.

        Args:
            folder: One of `tokenizer_folders`.
            target: Folder with the copied files.

        Raises:
            CheckpointError: The checkpoint's files cannot be read.
            BundleError: A CLIP tokenizer is damaged.
        """
        chat = next((kind.chat for kind in self.family.components if kind.folder == folder), None)
        write_tokenizer(self.root / folder, self.model_index[folder][1], target, chat)

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Folders of parts without a graph; none with random weights, which would draw a random watermark."""
        return self.family.weight_folders if self.seed is None else ()

    def bundle_model_index(self) -> dict[str, Any]:
        """Build model_index.json without the parts that a bundle does not hold."""
        whole = saved_ip_adapters(saved_t2i_adapters(diffusers_index(self.model_index)))
        index = {name: [None, None] if name in self._left_out() else entry for name, entry in whole.items()}
        unchecked = "requires_safety_checker" in index and not names_component(index, "safety_checker")
        return {**index, "requires_safety_checker": False} if unchecked else index

    def notices(self) -> list[str]:
        """Notes for the user about a bundle of this checkpoint."""
        unasked = [name for name in self._left_out() if name not in (*self.without, *self._unneeded)]
        rendered = "a bundle makes latents, and diffusers renders them"
        reasons = {
            "image_encoder": "only --ip-adapter needs it",
            **dict.fromkeys(("shap_e_renderer", "renderer"), rendered),  # published checkpoints have it twice
            **dict.fromkeys(self.family.weight_folders, "there are no random weights of it"),
        }
        notices = [
            f"{name} of the checkpoint is left out: {reasons.get(name, 'it is not supported yet')}" for name in unasked
        ]
        if self.seed is not None:
            notices.append(f"weights are random (seed {self.seed}): good for measuring, not for images")
        notices += [note for source, found in self.sources.items() for note in found.notices(source)]
        return notices if self.file is None else [*self.file.notices(), *notices]

    @property
    def _unneeded(self) -> tuple[str, ...]:
        """Folders that belong to components which are left out."""
        extractor = ("feature_extractor",) if "feature_extractor" not in self.family.folders else ()
        tokenizers = (
            name
            for name in self.model_index
            if holds_tokenizer(name, self.model_index) and name not in self.family.folders
        )
        return (*extractor, *tokenizers)

    def _left_out(self) -> list[str]:
        sources = (component.source for component in self.components)
        kept = {*self.family.folders, *self.weight_folders, *sources}
        entries = ((name, entry) for name, entry in self.model_index.items() if isinstance(entry, list) and any(entry))
        return sorted({name for name, entry in entries if not is_number_list(entry)} - kept)

    def _module_class(self, source: str) -> str:
        return ":".join(self.model_index[source])


def _both(one: DimSpec, other: DimSpec) -> DimSpec:
    """Intersect two ranges of sizes."""
    bounds = [dim.max for dim in (one, other) if dim.max is not None]
    return DimSpec(
        min=max(one.min, other.min),
        max=min(bounds, default=None),
        multiple_of=math.lcm(one.multiple_of, other.multiple_of),
    )
