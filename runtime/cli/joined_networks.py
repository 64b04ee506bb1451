"""Images for networks that are joined to a checkpoint: ControlNets, T2I-Adapters, IP-Adapters."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from diffoundry.runtime.cli.control_options import CONTROL_SETTINGS, control_options, read_controls
from diffoundry.runtime.cli.image_prompt_options import (
    IMAGE_PROMPT_SETTINGS,
    image_prompt_options,
    read_image_prompts,
)
from diffoundry.runtime.cli.t2i_adapter_options import (
    T2I_ADAPTER_SETTINGS,
    read_adapter_images,
    t2i_adapter_options,
)
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["JOINED_FILES", "JOINED_SETTINGS", "joined_options", "read_joined_images", "unused_components"]

Command = TypeVar("Command", bound=Callable[..., Any])

JOINED_SETTINGS = (*CONTROL_SETTINGS, *T2I_ADAPTER_SETTINGS, *IMAGE_PROMPT_SETTINGS)
"""Names of their settings, as arguments of a pipeline."""

JOINED_FILES = ("control_image", "adapter_image", "ip_adapter_image", "ip_adapter_masks")
"""Names of their files."""


def joined_options(command: Command) -> Command:
    """Add the options for joined networks."""
    return control_options(t2i_adapter_options(image_prompt_options(command)))


def read_joined_images(pipeline: PipelineBase, files: Mapping[str, Any]) -> dict[str, Any]:
    """Read the images of joined networks as the pipeline's arguments.

    Args:
        pipeline: The bundle's.
        files: Setting to a path, or to a list.

    Raises:
        InputError: A file that cannot be read.
    """
    controls, adapted, prompts, masks = (files.get(name, []) for name in JOINED_FILES)
    adapters, apart = 0, False
    if isinstance(pipeline, DiffusionPipeline):
        adapters, apart = len(pipeline.image_prompts.names), pipeline.controlnets.takes_mask
    return {
        **read_controls(controls, files.get("control_mask"), apart=apart),
        **read_adapter_images(adapted),
        **read_image_prompts(prompts, masks, adapters),
    }


def unused_components(pipeline: PipelineBase, files: Mapping[str, Any]) -> list[str]:
    """List the components of joined networks that get no image."""
    if not isinstance(pipeline, DiffusionPipeline):
        return []
    parts = {
        "control_image": pipeline.controlnets.names,
        "adapter_image": pipeline.t2i_adapters.names,
        "ip_adapter_image": pipeline.image_prompts.used_components,
    }
    return [name for setting, names in parts.items() if not files.get(setting) for name in names]
