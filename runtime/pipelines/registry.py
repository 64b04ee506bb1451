"""The table of families: the pipeline classes of diffusers that each covers, and its two halves.

A new family is its files and one entry in a table of `family_tables`.
"""

from typing import Any

from diffoundry.runtime.pipelines.family_tables.early_papers import EARLY_FAMILIES
from diffoundry.runtime.pipelines.family_tables.entry import FamilyEntry, PipelineClass
from diffoundry.runtime.pipelines.family_tables.flux import FLUX_FAMILIES
from diffoundry.runtime.pipelines.family_tables.stable_diffusion import STABLE_DIFFUSION_FAMILIES
from diffoundry.runtime.pipelines.family_tables.stages import STAGE_FAMILIES
from diffoundry.runtime.pipelines.family_tables.transformers import TRANSFORMER_FAMILIES

__all__ = [
    "FAMILY_TABLE",
    "FamilyEntry",
    "PipelineClass",
    "class_of_call",
    "class_with",
    "family_of_class",
    "find_family_entry",
]

FAMILY_TABLE = (
    *STABLE_DIFFUSION_FAMILIES,
    *FLUX_FAMILIES,
    *TRANSFORMER_FAMILIES,
    *STAGE_FAMILIES,
    *EARLY_FAMILIES,
)
"""Every family that the exporter and the runtime know."""


def find_family_entry(name: str) -> FamilyEntry | None:
    """Return the family of this name."""
    return next((entry for entry in FAMILY_TABLE if entry.name == name), None)


def family_of_class(pipeline_class: str) -> FamilyEntry | None:
    """Return the family that covers a pipeline class of diffusers."""
    return next((entry for entry in FAMILY_TABLE if pipeline_class in entry.classes), None)


def class_with(pipeline_class: str, part: str) -> str | None:
    """Return the class that does the same with joined networks; the class itself when it has them. None without one.

    Args:
        pipeline_class: Of diffusers.
        part: Field of `PipelineClass` for the networks: "controlnet", "t2i_adapter" or "control_mask".
    """
    entry = family_of_class(pipeline_class)
    if entry is None:
        return None
    has: dict[str, Any] = {part: True}
    wanted = entry.classes[pipeline_class]._replace(**has)
    return next((name for name, found in entry.classes.items() if found == wanted), None)


def class_of_call(pipeline_class: str, task: str, *, controlnet: bool) -> str:
    """Return the pipeline class of diffusers that does what a call does.

    Args:
        pipeline_class: Class that the checkpoint names; it wins where it does this itself, or where none does.
        task: `Task.name` of the task of the call.
        controlnet: True if ControlNets run.
    """
    entry, wanted = family_of_class(pipeline_class), PipelineClass(task, controlnet)
    if entry is None or entry.classes[pipeline_class]._replace(control_mask=False) == wanted:
        return pipeline_class
    return next((name for name, found in entry.classes.items() if found == wanted), pipeline_class)
