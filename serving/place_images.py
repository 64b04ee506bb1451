"""Lists of images in the form that a pipeline takes."""

from collections.abc import Sequence
from typing import Any

from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["group_image_prompts", "one_or_list"]


def one_or_list(images: Sequence[Any]) -> Any:
    """Return the image of a list of one, and longer lists as they are."""
    return images[0] if len(images) == 1 else list(images)


def group_image_prompts(pipeline: PipelineBase, images: Sequence[Any]) -> list[list[Any]]:
    """Return image prompts, or their masks, by IP-Adapter: one adapter gets all, of several each gets one."""
    together = not isinstance(pipeline, DiffusionPipeline) or len(pipeline.image_prompts.names) == 1
    return [list(images)] if together else [[one] for one in images]
