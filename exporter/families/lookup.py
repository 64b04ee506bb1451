"""Finds the family of a checkpoint by the pipeline class that it names."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, cast

from diffoundry.exporter.component import ComponentKind, FamilyDeclaration
from diffoundry.exporter.components.controlnet import controlnet
from diffoundry.exporter.components.ip_adapter import IMAGE_PROMPT_ENCODER, ip_adapter
from diffoundry.exporter.components.t2i_adapter import t2i_adapter
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.models.controlnet import is_controlnet
from diffoundry.runtime.models.image_projection import is_ip_adapter
from diffoundry.runtime.models.t2i_adapter import is_t2i_adapter
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE, family_of_class
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["controlnet_class", "find_family", "names_component"]


_SUPPORTED = (
    "Stable Diffusion 1.x, 2.x and XL (text to image, image to image, inpainting, ControlNet, InstructPix2Pix, image "
    "variation, latent consistency models), Stable Diffusion 3 (text to image, image to image, inpainting, "
    "ControlNet), FLUX.1, FLUX.2, Chroma, AuraFlow, Z-Image, Qwen-Image, Lumina-Image 2.0, Hunyuan-DiT, "
    "PixArt-Alpha and PixArt-Sigma, Sana and Sana-Sprint, upscalers, DDPM and its relatives, latent diffusion, unCLIP, "
    "Kandinsky 2.1, 2.2 and 3, DeepFloyd IF, Stable Cascade, Würstchen, VQ-Diffusion, Shap-E (latents), DiT, "
    "consistency models"
)


_ONE_LETTER = 0.955
"""Similarity of class names that differ in a letter; classes of diffusers differ more."""


def find_family(index: Mapping[str, Any], without: Collection[str] = ()) -> FamilyDeclaration:
    """Find the family of a model_index.json, without the optional components that the checkpoint lacks.

    ControlNets, T2I-Adapters and IP-Adapters come last, named "controlnet", "controlnet_1", "adapter", "ip_adapter" ...

    Args:
        index: model_index.json.
        without: Sources of optional components that are left out although the checkpoint has them.

    Raises:
        CheckpointError: Its pipeline class has no family.
    """
    pipeline_class = index.get("_class_name")
    entry = family_of_class(pipeline_class) if isinstance(pipeline_class, str) else None
    if entry is None:
        raise CheckpointError(_unsupported(pipeline_class))
    family = cast("FamilyDeclaration", resolve(entry.exporter))
    kept = [kind for kind in family.components if not (kind.optional and _lacks(index, kind.source, without))]
    unused = {kind.folder for kind in family.components} - {kind.folder for kind in kept}
    declare = family.controlnet or controlnet
    controlnets = tuple(declare(name) for name in index if is_controlnet(name))
    if entry.classes[str(pipeline_class)].controlnet and not controlnets:
        raise CheckpointError(
            f"model_index.json: got no 'controlnet' in a {pipeline_class}, expected one; it is damaged"
        )
    adapters = tuple(t2i_adapter(name) for name in index if is_t2i_adapter(name))
    if entry.classes[str(pipeline_class)].t2i_adapter and not adapters:
        raise CheckpointError(f"model_index.json: got no 'adapter' in a {pipeline_class}, expected one; it is damaged")
    return replace(
        family,
        components=(
            *kept,
            *(family.controlnet_components if controlnets else ()),
            *controlnets,
            *adapters,
            *_image_prompt_kinds(index),
        ),
        folders=tuple(folder for folder in family.folders if folder not in unused),
        weight_folders=tuple(folder for folder in family.weight_folders if names_component(index, folder)),
    )


def controlnet_class(index: Mapping[str, Any]) -> tuple[str, str]:
    """Return library and class of the ControlNets of a checkpoint's family."""
    entry = family_of_class(str(index.get("_class_name")))
    family = None if entry is None else cast("FamilyDeclaration", resolve(entry.exporter))
    declare = controlnet if family is None or family.controlnet is None else family.controlnet
    library, _, name = declare("controlnet").classes[0].partition(":")
    return library, name


def _image_prompt_kinds(index: Mapping[str, Any]) -> tuple[ComponentKind, ...]:
    """List the projections of IP-Adapters, and their image encoder."""
    adapters = tuple(ip_adapter(name) for name in index if is_ip_adapter(name))
    return (*adapters, IMAGE_PROMPT_ENCODER) if adapters else ()


def _unsupported(pipeline_class: Any) -> str:
    """Sentence for a pipeline class without a family."""
    if not isinstance(pipeline_class, str):
        return f"model_index.json: got {pipeline_class!r} as '_class_name', expected the name of a diffusers pipeline"
    # Another digit or capital letter is another model, no slip.
    length, marks = len(pipeline_class), re.findall(r"[A-Z\d]", pipeline_class)
    names = [name for entry in FAMILY_TABLE for name in entry.classes if abs(len(name) - length) <= 1]
    known = [name for name in names if re.findall(r"[A-Z\d]", name) == marks]
    name = pipeline_class if len(pipeline_class) <= 60 else f"{pipeline_class[:57]}..."
    return (
        f"{name.removesuffix('Pipeline')} is not supported yet (model_index.json has {name}); supported: {_SUPPORTED}; "
        f"see docs/reference/pipelines.md.{did_you_mean(pipeline_class, known, _ONE_LETTER)}"
    )


def _lacks(index: Mapping[str, Any], source: str, without: Collection[str]) -> bool:
    return source in without or not names_component(index, source)


def names_component(index: Mapping[str, Any], name: str) -> bool:
    """Return whether a model_index.json names a component, and not null.

    Raises:
        CheckpointError: The entry is neither a pair nor null.
    """
    entry = index.get(name)
    if entry is not None and not isinstance(entry, list):
        raise CheckpointError(
            f"model_index.json: component {name!r}: got {shorten(entry)}, expected [library, class] or [null, null]; "
            f"it is damaged"
        )
    return entry is not None and any(part is not None for part in entry)
