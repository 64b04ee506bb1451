"""Finds the family of a checkpoint by the pipeline class that it names."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from diffoundry.exporter.component import Family
from diffoundry.runtime.errors import CheckpointError

__all__ = ["FAMILIES", "find_family"]

_SD = "diffoundry.exporter.families.stable_diffusion:FAMILY"
_XL = "diffoundry.exporter.families.stable_diffusion_xl:FAMILY"

FAMILIES = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionInstructPix2PixPipeline": _SD,
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
}
"""Name of diffusers' pipeline class to "module:attribute" of the family. A new family adds its lines here."""


def find_family(index: Mapping[str, Any]) -> Family:
    """The family of a model_index.json, without the optional components that the checkpoint does not have.

    Raises:
        CheckpointError: There is none for its pipeline class.
    """
    pipeline_class = index.get("_class_name")
    if pipeline_class not in FAMILIES:
        raise CheckpointError(
            f"model_index.json: pipeline class: got {pipeline_class!r}, expected one of {', '.join(sorted(FAMILIES))}"
        )
    module, _, attribute = FAMILIES[pipeline_class].partition(":")
    family = cast("Family", getattr(importlib.import_module(module), attribute))
    absent = [kind for kind in family.components if kind.optional and not any(index.get(kind.source) or ())]
    folders = {kind.source.replace("text_encoder", "tokenizer") for kind in absent}
    return replace(
        family,
        components=tuple(kind for kind in family.components if kind not in absent),
        folders=tuple(folder for folder in family.folders if folder not in folders),
    )
