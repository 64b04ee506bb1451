"""Finds the family of a checkpoint by the pipeline class that it names."""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, cast

from diffoundry.exporter.component import Family
from diffoundry.exporter.components.controlnet import controlnet
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.models.controlnet_names import is_controlnet
from diffoundry.runtime.pipelines.classes import CONTROLNET_CLASSES, PIPELINE_CLASSES

__all__ = ["find_family"]

_FAMILIES = {
    "image_variation": "diffoundry.exporter.families.image_variation:FAMILY",
    "stable_diffusion": "diffoundry.exporter.families.stable_diffusion:FAMILY",
    "stable_diffusion_3": "diffoundry.exporter.families.stable_diffusion_3:FAMILY",
    "stable_diffusion_xl": "diffoundry.exporter.families.stable_diffusion_xl:FAMILY",
}
"""Name to "module:attribute" of the family; the runtime's `PIPELINE_CLASSES` maps classes to families."""


def find_family(index: Mapping[str, Any], without: Collection[str] = ()) -> Family:
    """Find the family of a model_index.json, without the optional components that the checkpoint lacks.

    ControlNets come last, named "controlnet", "controlnet_1" ...

    Args:
        index: model_index.json.
        without: Sources of optional components that are left out although the checkpoint has them.

    Raises:
        CheckpointError: Its pipeline class has no family.
    """
    pipeline_class = index.get("_class_name")
    if pipeline_class not in PIPELINE_CLASSES:
        known = ", ".join(sorted(PIPELINE_CLASSES))
        raise CheckpointError(f"model_index.json: pipeline class: got {pipeline_class!r}, expected one of {known}")
    module, _, attribute = _FAMILIES[PIPELINE_CLASSES[pipeline_class].family].partition(":")
    family = cast("Family", getattr(importlib.import_module(module), attribute))
    kept = [kind for kind in family.components if not (kind.optional and _lacks(index, kind.source, without))]
    unused = {kind.folder for kind in family.components} - {kind.folder for kind in kept}
    controlnets = tuple(controlnet(name) for name in index if is_controlnet(name))
    if pipeline_class in CONTROLNET_CLASSES.values() and not controlnets:
        raise CheckpointError(
            f"model_index.json: got no 'controlnet' in a {pipeline_class}, expected one; it is damaged"
        )
    return replace(
        family,
        components=(*kept, *controlnets),
        folders=tuple(folder for folder in family.folders if folder not in unused),
    )


def _lacks(index: Mapping[str, Any], source: str, without: Collection[str]) -> bool:
    return source in without or not any(index.get(source) or ())
