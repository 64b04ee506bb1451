"""A checkpoint: a diffusers folder or a single file, from any source, checked before anything of it is used."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from diffoundry.exporter.checkpoints.aliases import read_aliases
from diffoundry.exporter.checkpoints.checks import check_classes, check_folder, check_index, read_configs
from diffoundry.exporter.checkpoints.controlnets import controlnet_folders, diffusers_index, joined_index
from diffoundry.exporter.checkpoints.resolve import DownloadProgress, configs_of, find_root, forms
from diffoundry.exporter.checkpoints.single_file import PREDICTION_TYPE, SingleFile
from diffoundry.exporter.checkpoints.vae_override import check_fits, vae_class
from diffoundry.exporter.checkpoints.weight_files import read_json, resolve_weights
from diffoundry.exporter.component import Component, Config, FamilyDeclaration
from diffoundry.exporter.families.lookup import find_family
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import DimSpec, FusedLora, Recipe
from diffoundry.runtime.errors import CheckpointError, InputError

if TYPE_CHECKING:  # reached lazily: the process that only plans an export stays free of torch
    import torch

__all__ = ["SEED", "Checkpoint", "open_checkpoint", "open_recipe"]

SEED = "random_weights_seed"
"""Name of the seed among a recipe's sources."""

_INDEX = "model_index.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checked diffusers folder, with its own weights, those of a single file, or random ones.

    Attributes:
        name: The user's name for it: alias, hub id, folder or file.
        root: The folder.
        seed: Seed of random weights, or None when the folder's weights are used.
        model_index: model_index.json.
        family: FamilyDeclaration of its pipeline class.
        components: The family's components as configured in this checkpoint, in the order of export.
        loras: LoRAs added to the weights when they are loaded.
        controlnets: Joined ControlNets by the user's names: folders or aliases.
        outside: Networks to their folders, for networks that may lie outside the root.
        without: Optional components that are left out although the folder has them, such as "safety_checker".
        vae: Folder of a VAE that replaces the checkpoint's own, by the user's name; None for its own.
        file: Single file that holds the weights, or None.
    """

    name: str
    root: Path
    seed: int | None
    model_index: Config
    family: FamilyDeclaration
    components: tuple[Component, ...]
    loras: tuple[FusedLora, ...] = ()
    controlnets: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    vae: str | None = None
    file: SingleFile | None = None
    outside: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def at(
        cls,
        root: Path,
        *,
        name: str,
        seed: int | None = None,
        controlnets: Sequence[str] = (),
        without: Iterable[str] = (),
        vae: str | None = None,
        file: SingleFile | None = None,
    ) -> Self:
        """Open a folder.

        Args:
            root: The folder.
            name: The user's name for it.
            seed: Seed for random weights; None uses the folder's weights.
            controlnets: See above.
            without: See above.
            vae: See above.
            file: See above.

        Raises:
            CheckpointError: A part is missing, damaged, unknown or untrusted.
            ConfigError: A network is configured in a way that is not supported.
        """
        index = read_json(root / _INDEX)
        check_index(root / _INDEX, index)
        added = controlnet_folders(root, index, controlnets)
        index = joined_index(index, tuple(added))
        outside = added if vae is None else {"vae": Path(vae), **added}
        if vae is not None:
            index = {**index, "vae": ["diffusers", vae_class(vae)]}
        without = tuple(without)
        family = find_family(index, without)
        check_classes(root / _INDEX, index, family)
        for folder in family.folders:
            check_folder(root / folder)
        configs = read_configs(root, outside, index, family)
        if vae is not None:
            check_fits(vae, configs, root / "vae" / "config.json")
        components = tuple(kind.describe(configs) for kind in family.components)
        return cls(
            name=name,
            root=root,
            seed=seed,
            model_index=index,
            family=family,
            components=components,
            controlnets=tuple(controlnets),
            without=without,
            vae=vae,
            file=file,
            outside=outside,
        )

    @classmethod
    def of_file(
        cls, path: Path, *, name: str, prediction_type: str | None = None, vae: str | None = None, **options: Any
    ) -> Self:
        """Open a single file.

        Args:
            path: The file.
            name: The user's name for it.
            prediction_type: "epsilon" or "v_prediction", or None for the type recorded in the file.
            vae: See above; the file then needs none.
            options: Other options of `at`.

        Raises:
            CheckpointError: It is pickled, damaged, unknown or incomplete, or its prediction type is unknown.
            InputError: An unknown prediction type.
        """
        given = () if vae is None else ("vae",)
        file = SingleFile.open(path, prediction_type=prediction_type, given=given)
        return cls.at(file.configs, name=name, vae=vae, file=file, **options)

    def describe(self) -> dict[str, Any]:
        """Describe the checkpoint as plain data for `reopen` in another process."""
        place = {"name": self.name, "root": str(self.root.resolve()), "seed": self.seed}
        joined = list(self.outside.values())[len(self.outside) - len(self.controlnets) :]
        return {
            **place,
            "controlnets": [str(path.resolve()) for path in joined],
            "without": list(self.without),
            "vae": None if self.vae is None else str(Path(self.vae).resolve()),
            "file": None if self.file is None else str(self.file.path.resolve()),
            "prediction_type": None if self.file is None else self.file.asked,
            "loras": to_json(self.loras),
        }

    @classmethod
    def reopen(cls, description: Mapping[str, Any]) -> Self:
        """Open a checkpoint from the data of `describe`."""
        own = {key: description[key] for key in ("name", "seed", "controlnets", "without", "vae")}
        if description["file"] is not None:
            plain = cls.of_file(Path(description["file"]), prediction_type=description["prediction_type"], **own)
        else:
            plain = cls.at(Path(description["root"]), **own)
        return plain.with_loras(from_json(FusedLora, lora) for lora in description["loras"])

    def with_loras(self, loras: Iterable[FusedLora]) -> Self:
        """Copy the checkpoint with LoRAs added to its weights."""
        return replace(self, loras=(*self.loras, *loras))

    def with_controlnets(self, controlnets: Sequence[str]) -> Self:
        """Copy the checkpoint with further ControlNets, whose residuals its denoiser takes.

        Args:
            controlnets: Folders in diffusers' layout, or aliases.

        Raises:
            CheckpointError: One is missing or no ControlNet, or the pipeline supports none.
            ConfigError: One was made for another kind of checkpoint.
        """
        if not controlnets:
            return self
        opened = self.at(
            self.root,
            name=self.name,
            seed=self.seed,
            controlnets=(*self.controlnets, *controlnets),
            without=self.without,
            vae=self.vae,
            file=self.file,
        )
        return opened.with_loras(self.loras)

    def folder(self, source: str) -> Path:
        """Folder with the config and the weights of a network."""
        return self.outside.get(source, self.root / source)

    def component(self, name: str) -> Component:
        """Find a component by name."""
        return next(component for component in self.components if component.name == name)

    def with_role(self, role: str) -> tuple[Component, ...]:
        """The components with a role, one of `runtime.models.roles.ROLES`."""
        return tuple(component for component in self.components if component.role == role)

    def load(self, name: str) -> "torch.nn.Module":
        """Build a torch module in fp32 for inference, with its weights.

        Args:
            name: A component, or its folder; both halves of a VAE give the whole VAE.

        Raises:
            CheckpointError: Weights are missing, damaged, pickled, or do not fit the config.
            InputError: A LoRA does not fit the networks.
        """
        from diffoundry.exporter.checkpoints.weights import load_weights, random_weights

        source = next((component.source for component in self.components if component.name == name), name)
        if self.seed is not None:
            module = random_weights(self.folder(source), self._module_class(source), self.seed)
        elif self.file is not None and source not in self.outside:
            module = self.file.load(source, self._module_class(source))
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
        """Folders of the tokenizers, in the checkpoint and in the bundle."""
        return tuple(folder for folder in self.family.folders if folder.startswith("tokenizer"))

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
        sources = sorted({component.source for component in self.components})
        files = {f"{source}/config.json": self.folder(source) / "config.json" for source in sources}
        if self.seed is None:
            for source in (source for source in sources if self.file is None or source in self.outside):
                folder = self.folder(source)
                weights = resolve_weights(folder, self._module_class(source).partition(":")[0])
                files |= {f"{source}/{file}": folder / file for file in weights.files}
        sums = {file: sha256_of(path) for file, path in files.items()}
        sums |= {} if self.file is None else self.file.identity()
        sums |= {f"lora {lora.file}:{lora.scale:g}": lora.sha256 for lora in self.loras}
        return sums if self.seed is None else {SEED: str(self.seed), **sums}

    def bundle_files(self) -> list[tuple[Path, str]]:
        """List the files that a bundle copies unchanged: (file, its path in the bundle)."""
        files = [
            (self.folder(component.source) / "config.json", f"{component.name}/config.json")
            for component in self.components
        ]
        for folder in self.family.folders:
            texts = sorted(path for path in (self.root / folder).iterdir() if path.suffix in (".json", ".txt"))
            files += [(path, f"{folder}/{path.name}") for path in texts]
        return files

    def bundle_model_index(self) -> dict[str, Any]:
        """Build model_index.json without the parts that a bundle does not hold."""
        whole = diffusers_index(self.model_index)
        index = {name: [None, None] if name in self._left_out() else entry for name, entry in whole.items()}
        unchecked = "requires_safety_checker" in index and not any(index.get("safety_checker") or ())
        return {**index, "requires_safety_checker": False} if unchecked else index

    def notices(self) -> list[str]:
        """Notes for the user about a bundle of this checkpoint."""
        unasked = [name for name in self._left_out() if name not in (*self.without, *self._unneeded)]
        notices = [f"{name} of the checkpoint is left out: it is not supported yet" for name in unasked]
        if self.seed is not None:
            notices.append(f"weights are random (seed {self.seed}): good for measuring, not for images")
        return notices if self.file is None else [*self.file.notices(), *notices]

    @property
    def _unneeded(self) -> tuple[str, ...]:
        """Folders that belong to components which are left out."""
        extractor = ("feature_extractor",) if "feature_extractor" not in self.family.folders else ()
        return (*extractor, *(name.replace("text_encoder", "tokenizer") for name in self.without))

    def _left_out(self) -> list[str]:
        kept = {*self.family.folders, *(component.source for component in self.components)}
        parts = {name for name, entry in self.model_index.items() if isinstance(entry, list) and any(entry)}
        return sorted(parts - kept)

    def _module_class(self, source: str) -> str:
        return ":".join(self.model_index[source])


def _both(one: DimSpec, other: DimSpec) -> DimSpec:
    """Intersect two ranges of sizes."""
    bounds = [dim.max for dim in (one, other) if dim.max is not None]
    return DimSpec(max=min(bounds, default=None), multiple_of=math.lcm(one.multiple_of, other.multiple_of))


def open_checkpoint(
    model: str,
    *,
    random_weights: bool = False,
    seed: int = 0,
    revision: str | None = None,
    prediction_type: str | None = None,
    progress: DownloadProgress | None = None,
    without: Collection[str] = (),
    vae: str | None = None,
) -> Checkpoint:
    """Find a checkpoint by the user's name for it, download it from the hub if needed, and check it.

    Args:
        model: An alias, a diffusers folder, a single file, or a hub id ("organisation/name").
        random_weights: Build the networks of an alias or a folder with random weights; nothing is downloaded.
        seed: Seed of the random weights.
        revision: Branch, tag or commit on the hub.
        prediction_type: Prediction type of a single file, "epsilon" or "v_prediction"; None for the recorded one.
        progress: Called during a download.
        without: As `Checkpoint.without`; nothing of these is downloaded.
        vae: As `Checkpoint.vae`.

    Raises:
        CheckpointError: It cannot be found, read or trusted; the message is one sentence.
        ConfigError: A network is configured in a way that is not supported.
        InputError: A prediction type that is unknown, or combined with anything but a single file.
    """
    alias = read_aliases().get(model)
    if alias is not None and alias.configs is None:
        raise CheckpointError(f"model {model!r}: got the alias of a ControlNet, expected {forms()}")
    if alias is None and Path(model).is_file() and not random_weights:
        return Checkpoint.of_file(Path(model), name=model, prediction_type=prediction_type, without=without, vae=vae)
    if prediction_type is not None:
        raise InputError(
            f"prediction type: got {prediction_type!r} with the model {model!r}, expected it with a single file only; "
            f"elsewhere the scheduler's config says it"
        )
    if random_weights:
        root = configs_of(alias) if alias else Path(model)
        if not root.is_dir():
            raise CheckpointError(f"model {model!r}: got no config to build with random weights, expected {forms()}")
        return Checkpoint.at(root, name=model, seed=seed, without=without, vae=vae)
    root = find_root(model, alias, revision, progress, without)
    return Checkpoint.at(root, name=model, without=without, vae=vae)


def open_recipe(recipe: Recipe) -> Checkpoint:
    """Open the checkpoint that a recipe names, as it was exported.

    Raises:
        CheckpointError: It no longer exists.
        InputError: The recipe's seed is no number.
    """
    seed = recipe.source.get(SEED)
    if seed is not None and not seed.isdecimal():
        raise InputError(f"got the seed {seed!r} in its recipe, expected a number; export again")
    plain = open_checkpoint(
        recipe.model,
        random_weights=seed is not None,
        seed=int(seed or 0),
        prediction_type=recipe.source.get(PREDICTION_TYPE),
        without=recipe.without,
        vae=recipe.vae,
    )
    return plain.with_controlnets(recipe.controlnets).with_loras(recipe.loras)
