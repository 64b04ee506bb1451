"""One family of a table: the pipeline classes of diffusers that it covers, and its two halves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["FamilyEntry", "PipelineClass"]


class PipelineClass(NamedTuple):
    """A pipeline class of diffusers.

    Attributes:
        task: `Task.name` of the task that it is for.
        controlnet: True if it has ControlNets.
        t2i_adapter: True if it has T2I-Adapters.
        control_mask: True if its ControlNets take a mask beside the image.
    """

    task: str
    controlnet: bool = False
    t2i_adapter: bool = False
    control_mask: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyEntry:
    """One family.

    Attributes:
        name: Name in the manifest.
        classes: Name of a pipeline class to its task.
        runtime: "module:attribute" of the subclass of `runtime.pipelines.families.base.Family`, or of
            `runtime.pipelines.staged.StagedPipeline`.
        exporter: "module:attribute" of the `exporter.component.Family`.
    """

    name: str
    classes: Mapping[str, PipelineClass]
    runtime: str
    exporter: str
