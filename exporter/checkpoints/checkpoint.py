"""A checkpoint: a diffusers folder or a single file, from any source, checked before anything of it is used."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from diffoundry.exporter.checkpoints.aliases import read_aliases
from diffoundry.exporter.checkpoints.checks import check_classes, check_folder, check_index, read_configs
from diffoundry.exporter.checkpoints.contents import SEED, CheckpointContents
from diffoundry.exporter.checkpoints.control_lora import CONTROL_CLASSES, ControlWeights, is_control_lora
from diffoundry.exporter.checkpoints.controlnets import find_controlnets, joined_index, take_masks
from diffoundry.exporter.checkpoints.find_sources import find_sources
from diffoundry.exporter.checkpoints.flat_folder import spread_flat_folder
from diffoundry.exporter.checkpoints.hints import check_file
from diffoundry.exporter.checkpoints.ip_adapters import find_ip_adapters, index_with_ip_adapters
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.pipeline_override import PIPELINE, checked_against, index_with_pipeline
from diffoundry.exporter.checkpoints.resolve import DownloadProgress, configs_of, find_root, forms
from diffoundry.exporter.checkpoints.single_file import PREDICTION_TYPE, SingleFile
from diffoundry.exporter.checkpoints.t2i_adapters import find_t2i_adapters, index_with_t2i_adapters
from diffoundry.exporter.checkpoints.transformer_override import TRANSFORMER, open_transformer
from diffoundry.exporter.checkpoints.vae_override import check_fits, open_vae, vae_class
from diffoundry.exporter.checkpoints.weight_files import VARIANT, base_library
from diffoundry.exporter.components.attention_control import check_family, with_attention_control
from diffoundry.exporter.families.lookup import find_family
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import FusedLora, Recipe
from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.formats.recognize import describe_link
from diffoundry.runtime.models.image_projection import is_ip_adapter
from diffoundry.runtime.models.t2i_adapter import is_t2i_adapter

__all__ = ["SEED", "Checkpoint", "open_checkpoint", "open_recipe"]

_INDEX = "model_index.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint(CheckpointContents):
    """A checked diffusers folder, with its own weights, those of a single file, or random ones."""

    @classmethod
    def at(
        cls,
        root: Path,
        *,
        name: str,
        seed: int | None = None,
        controlnets: Sequence[str] = (),
        t2i_adapters: Sequence[str] = (),
        ip_adapters: Sequence[str] = (),
        image_encoder: str | None = None,
        without: Iterable[str] = (),
        vae: str | None = None,
        transformer: str | None = None,
        pipeline: str | None = None,
        variant: str | None = None,
        file: SingleFile | None = None,
    ) -> Self:
        """Open a folder, and read the header of every weight file.

        Args:
            root: The folder.
            name: The user's name for it.
            seed: Seed for random weights; None uses the folder's weights.
            controlnets: See above.
            t2i_adapters: See above.
            ip_adapters: See above.
            image_encoder: See above.
            without: See above.
            vae: See above.
            transformer: See above.
            pipeline: See above.
            variant: See above.
            file: See above.

        Raises:
            CheckpointError: A part is missing, damaged, unknown or untrusted.
            InputError: `pipeline` is not supported, or does not fit.
            ConfigError: A network is configured in a way that is not supported.
        """
        index = read_json(root / _INDEX)
        check_index(root / _INDEX, index)
        index = index_with_pipeline(index, pipeline)
        outside = find_controlnets(root, index, controlnets)
        index = joined_index(index, tuple(outside), masks=take_masks(outside))
        adapters = find_t2i_adapters(root, index, t2i_adapters)
        index = index_with_t2i_adapters(index, tuple(adapters))
        prompts = find_ip_adapters(root, index, ip_adapters, image_encoder)
        index = index_with_ip_adapters(index, prompts)
        outside |= {**adapters, **prompts}
        if vae is not None:
            outside["vae"] = open_vae(vae, root / "vae" / "config.json")
            index = {**index, "vae": ["diffusers", vae_class(outside["vae"].folder)]}
        if transformer is not None:
            outside[TRANSFORMER] = open_transformer(transformer, index, root / TRANSFORMER / "config.json")
        without = tuple(without)
        with checked_against(pipeline):
            family = find_family(index, without)
            check_classes(root / _INDEX, index, family)
            for folder in family.folders:
                check_folder(root, folder, index)
        configs = read_configs(root, {source: one.folder for source, one in outside.items()}, index, family)
        if vae is not None:
            check_fits(vae, configs, root / "vae" / "config.json")
        components = tuple(kind.describe(configs) for kind in family.components)
        libraries = {source: base_library(*index[source]) for source in configs}
        return cls(
            name=name,
            root=root,
            seed=seed,
            model_index=index,
            family=family,
            components=components,
            controlnets=tuple(controlnets),
            t2i_adapters=tuple(t2i_adapters),
            ip_adapters=tuple(ip_adapters),
            image_encoder=image_encoder,
            without=without,
            vae=vae,
            transformer=transformer,
            pipeline=pipeline,
            variant=variant,
            file=file,
            sources=find_sources(root, outside, libraries, configs, seed=seed, file=file, variant=variant),
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
        """Describe the checkpoint as plain data for `reopen` in another process and folder."""
        return {
            "name": self.name,
            "root": os.path.abspath(self.root),
            "seed": self.seed,
            "controlnets": [text if text in read_aliases() else os.path.abspath(text) for text in self.controlnets],
            "t2i_adapters": [os.path.abspath(text) for text in self.t2i_adapters],
            "ip_adapters": [os.path.abspath(text) for text in self.ip_adapters],
            "image_encoder": None if self.image_encoder is None else os.path.abspath(self.image_encoder),
            "without": list(self.without),
            "vae": None if self.vae is None else os.path.abspath(self.vae),
            "transformer": None if self.transformer is None else os.path.abspath(self.transformer),
            "pipeline": self.pipeline,
            "variant": self.variant,
            "file": None if self.file is None else os.path.abspath(self.file.path),
            "prediction_type": None if self.file is None else self.file.asked,
            "loras": to_json(self.loras),
            "attention_control": self.attention_control,
        }

    @classmethod
    def reopen(cls, description: Mapping[str, Any]) -> Self:
        """Open a checkpoint from the data of `describe`."""
        others = ("root", "file", "prediction_type", "loras", "attention_control")
        own = {key: value for key, value in description.items() if key not in others}
        if description["file"] is not None:
            plain = cls.of_file(Path(description["file"]), prediction_type=description["prediction_type"], **own)
        else:
            plain = cls.at(Path(description["root"]), **own)
        fused = plain.with_loras(from_json(FusedLora, lora) for lora in description["loras"])
        return fused.with_attention_control(asked=description["attention_control"])

    def with_loras(self, loras: Iterable[FusedLora]) -> Self:
        """Copy the checkpoint with LoRAs added to its weights; one for control changes FLUX.1's pipeline class.

        Raises:
            InputError: A file is no safetensors file.
        """
        added = tuple(loras)
        control = self.model_index["_class_name"] in CONTROL_CLASSES
        config = read_json(self.folder(TRANSFORMER) / "config.json") if control else {}
        wide = control and any(is_control_lora(Path(lora.file), config) for lora in added)
        return replace(self._with_control() if wide else self, loras=(*self.loras, *added))

    def _with_control(self) -> Self:
        """Copy the checkpoint with a first layer of the transformer that takes a control image too."""
        index = {**self.model_index, "_class_name": CONTROL_CLASSES[self.model_index["_class_name"]]}
        family = find_family(index, self.without)
        sources = {**self.sources, TRANSFORMER: ControlWeights.of(self.sources[TRANSFORMER])}
        configs = read_configs(self.root, {name: one.folder for name, one in sources.items()}, index, family)
        components = tuple(kind.describe(configs) for kind in family.components)
        return replace(self, model_index=index, family=family, components=components, sources=sources)

    def with_attention_control(self, *, asked: bool = True) -> Self:
        """Copy the checkpoint with a UNet that takes edits of its attention.

        Args:
            asked: False returns the checkpoint as it is.

        Raises:
            CheckpointError: It is of another family than Stable Diffusion 1.x and 2.x, or has T2I-Adapters or
                IP-Adapters.
            ConfigError: The UNet has no cross attention on its ways down and up.
        """
        if not asked:
            return self
        check_family(self.family.name)
        if any(is_t2i_adapter(component.name) or is_ip_adapter(component.name) for component in self.components):
            raise CheckpointError(
                "--attention-control: got a checkpoint with a T2I-Adapter or an IP-Adapter, expected one without; "
                "export a bundle for each"
            )
        config = read_json(self.folder("unet") / "config.json")
        components = tuple(with_attention_control(component, config) for component in self.components)
        return replace(self, components=components, attention_control=True)

    def with_controlnets(self, controlnets: Sequence[str]) -> Self:
        """Copy the checkpoint with further ControlNets, whose residuals its denoiser takes.

        Args:
            controlnets: Folders in diffusers' layout, or aliases.

        Raises:
            CheckpointError: One is missing or no ControlNet, or the pipeline supports none.
            ConfigError: One was made for another kind of checkpoint.
        """
        return self._with(controlnets=(*self.controlnets, *controlnets)) if controlnets else self

    def with_t2i_adapters(self, adapters: Sequence[str]) -> Self:
        """Copy the checkpoint with further T2I-Adapters, whose features its denoiser takes.

        Args:
            adapters: Folders in diffusers' layout.

        Raises:
            CheckpointError: One is missing or no T2I-Adapter, or the pipeline supports none.
            ConfigError: One was made for another kind of checkpoint.
        """
        return self._with(t2i_adapters=(*self.t2i_adapters, *adapters)) if adapters else self

    def with_ip_adapters(self, adapters: Sequence[str], image_encoder: str | None = None) -> Self:
        """Copy the checkpoint with further IP-Adapters, whose image prompts its denoiser takes.

        Args:
            adapters: Files, or folders with one each.
            image_encoder: Folder of the image encoder; None for the usual place.

        Raises:
            CheckpointError: One is missing or no IP-Adapter, or the pipeline supports none.
            ConfigError: One was made for another kind of checkpoint, or for another image encoder.
        """
        if not adapters and image_encoder is None:
            return self
        return self._with(ip_adapters=(*self.ip_adapters, *adapters), image_encoder=image_encoder or self.image_encoder)

    def _with(self, **changes: Any) -> Self:
        """Open the checkpoint again with other parts joined."""
        kept = {
            "controlnets": self.controlnets,
            "t2i_adapters": self.t2i_adapters,
            "ip_adapters": self.ip_adapters,
            "image_encoder": self.image_encoder,
            "without": self.without,
            "vae": self.vae,
            "transformer": self.transformer,
            "pipeline": self.pipeline,
            "variant": self.variant,
            "file": self.file,
        }
        opened = self.at(self.root, name=self.name, seed=self.seed, **{**kept, **changes})
        return opened.with_loras(self.loras).with_attention_control(asked=self.attention_control)


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
    transformer: str | None = None,
    pipeline: str | None = None,
    variant: str | None = None,
) -> Checkpoint:
    """Find a checkpoint by the user's name for it, download it from the hub if needed, and check it.

    Args:
        model: An alias, a diffusers folder, a single file, or a hub id ("organisation/name", or with a revision
            "organisation/name@main").
        random_weights: Build the networks of an alias or a folder with random weights; nothing is downloaded.
        seed: Seed of the random weights.
        revision: Branch, tag or commit on the hub.
        prediction_type: Prediction type of a single file, "epsilon" or "v_prediction"; None for the recorded one.
        progress: Called during a download.
        without: As `Checkpoint.without`; nothing of these is downloaded.
        vae: As `Checkpoint.vae`.
        transformer: As `Checkpoint.transformer`; the checkpoint's own is not downloaded.
        pipeline: As `Checkpoint.pipeline`.
        variant: As `Checkpoint.variant`.

    Raises:
        CheckpointError: It cannot be found, read or trusted; the message is one sentence.
        ConfigError: A network is configured in a way that is not supported.
        InputError: A prediction type that is unknown, or combined with anything but a single file; a pipeline class
            that is not supported, or does not fit.
    """
    model, revision = _split_revision(model, revision)
    alias = read_aliases().get(model)
    options: dict[str, Any] = {"without": without, "vae": vae, "transformer": transformer, "pipeline": pipeline}
    if alias is not None and alias.configs is None:
        raise CheckpointError(f"model {model!r}: got the alias of a ControlNet, expected {forms()}")
    link = None if alias else describe_link(Path(model))
    if link is not None:
        raise CheckpointError(f"model {model!r}: {link}")
    if alias is None and Path(model).is_file() and not random_weights:
        check_file(model, forms())
        if variant is not None:
            raise InputError(f"--variant: got {variant!r} with the single file {model}, expected a diffusers folder")
        return Checkpoint.of_file(Path(model), name=model, prediction_type=prediction_type, **options)
    if prediction_type is not None:
        raise InputError(
            f"prediction type: got {prediction_type!r} with the model {model!r}, expected it with a single file only; "
            f"elsewhere the scheduler's config says it"
        )
    if random_weights:
        root = configs_of(alias) if alias else Path(model)
        if not root.is_dir():
            raise CheckpointError(f"model {model!r}: got no config to build with random weights, expected {forms()}")
        return Checkpoint.at(root, name=model, seed=seed, **options)
    if revision is not None and (Path(model).is_dir() or (alias is not None and alias.folder is not None)):
        raise InputError(f"--revision: got {revision!r} with the folder {model}, expected it with a hub id only")
    spared = without if transformer is None else (*without, TRANSFORMER)
    root = spread_flat_folder(find_root(model, alias, revision, variant, progress, spared))
    name = model if revision is None else f"{model}@{revision}"
    return Checkpoint.at(root, name=name, variant=variant, **options)


def _split_revision(model: str, revision: str | None) -> tuple[str, str | None]:
    """Split "organisation/name@revision" into both; a folder of this name stays whole.

    Raises:
        InputError: Two revisions.
    """
    name, at, found = model.partition("@")
    if not at or Path(model).exists():
        return model, revision
    if revision not in (None, found):
        raise InputError(f"--revision: got {revision!r} with the model {model!r}, which names another; leave one out")
    return name, found


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
        transformer=recipe.source.get(TRANSFORMER),
        pipeline=recipe.source.get(PIPELINE),
        variant=recipe.source.get(VARIANT),
    )
    joined = plain.with_controlnets(recipe.controlnets).with_t2i_adapters(recipe.t2i_adapters)
    whole = joined.with_ip_adapters(recipe.ip_adapters, recipe.image_encoder).with_loras(recipe.loras)
    return whole.with_attention_control(asked=recipe.attention_control)
