"""Architectures of single files: their configs, the tensor names of their networks, their pipelines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.aliases import package_path

__all__ = ["ARCHITECTURES", "UNET_PREFIX", "Architecture", "Changes", "FilePart"]

UNET_PREFIX = "model.diffusion_model."

Changes = Mapping[str, Mapping[str, Any]]
"""JSON file of a diffusers folder to changed fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePart:
    """One network of a single file.

    Attributes:
        source: Its folder in diffusers' layout.
        title: Name used in messages.
        layout: Naming scheme of its tensors: "unet" and "vae" (the original code of latent diffusion),
            "controlnet" (its original code), "clip" (transformers) or "open_clip".
        prefixes: Prefixes of the tensor names; the first one that occurs is used.
    """

    source: str
    title: str
    layout: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Common facts of a family of single files.

    Attributes:
        name: Name used in messages.
        configs: Diffusers folder without weights.
        parts: The networks, all of which a file must have.
        pipelines: Number of UNet input channels to the pipeline class.
        prediction: Prediction type when the file does not record one: "epsilon", "v_prediction", or None where
            published checkpoints differ.
        for_prediction: Prediction type to changes of the configs.
        for_channels: Number of input channels to changes of the configs.
    """

    name: str
    configs: Path
    parts: tuple[FilePart, ...]
    pipelines: Mapping[int, str]
    prediction: str | None = "epsilon"
    for_prediction: Mapping[str, Changes] = field(default_factory=dict)
    for_channels: Mapping[int, Changes] = field(default_factory=dict)


_UNET = FilePart(source="unet", title="UNet", layout="unet", prefixes=(UNET_PREFIX,))
_VAE = FilePart(source="vae", title="VAE", layout="vae", prefixes=("first_stage_model.", "vae."))


def _text(source: str, layout: str, prefix: str) -> FilePart:
    title = "second text encoder" if source == "text_encoder_2" else "text encoder"
    return FilePart(source=source, title=title, layout=layout, prefixes=(prefix,))


def _scheduler(name: str) -> Changes:
    return {
        "model_index.json": {"scheduler": ["diffusers", name]},
        "scheduler/scheduler_config.json": {"_class_name": name},
    }


_TASKS = {
    4: "StableDiffusionPipeline",
    8: "StableDiffusionInstructPix2PixPipeline",
    9: "StableDiffusionInpaintPipeline",
}

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="Stable Diffusion 1.x",
        configs=package_path("exporter/configs/sd1"),
        parts=(_text("text_encoder", "clip", "cond_stage_model.transformer."), _UNET, _VAE),
        pipelines=_TASKS,
        for_channels={8: _scheduler("EulerAncestralDiscreteScheduler")},  # as its authors sample
    ),
    Architecture(
        name="Stable Diffusion 2.x",
        configs=package_path("exporter/configs/sd21"),
        parts=(_text("text_encoder", "open_clip", "cond_stage_model.model."), _UNET, _VAE),
        pipelines=_TASKS,
        prediction=None,
        # 2-base, 2-1-base and 2-inpainting were trained on 512 pixels, the v-prediction models on 768.
        for_prediction={"epsilon": {**_scheduler("PNDMScheduler"), "unet/config.json": {"sample_size": 64}}},
    ),
    Architecture(
        name="Stable Diffusion XL",
        configs=package_path("exporter/configs/sdxl"),
        parts=(
            _text("text_encoder", "clip", "conditioner.embedders.0.transformer."),
            _text("text_encoder_2", "open_clip", "conditioner.embedders.1.model."),
            _UNET,
            _VAE,
        ),
        pipelines={
            4: "StableDiffusionXLPipeline",
            8: "StableDiffusionXLInstructPix2PixPipeline",
            9: "StableDiffusionXLInpaintPipeline",
        },
    ),
    Architecture(
        name="the refiner of Stable Diffusion XL",
        configs=package_path("exporter/configs/sdxl_refiner"),
        parts=(_text("text_encoder_2", "open_clip", "conditioner.embedders.0.model."), _UNET, _VAE),
        pipelines={4: "StableDiffusionXLImg2ImgPipeline"},
    ),
)
