"""One file a task, and the table of tasks."""

from collections.abc import Collection, Sequence
from dataclasses import fields

from diffoundry.runtime.pipelines.registry import family_of_class
from diffoundry.runtime.pipelines.tasks.base import Task, TextToImage
from diffoundry.runtime.pipelines.tasks.channel_control import (
    ChannelControl,
    ControlImageToImage,
    ControlInpainting,
)
from diffoundry.runtime.pipelines.tasks.controlnet_inpainting import ControlNetInpainting
from diffoundry.runtime.pipelines.tasks.depth_to_image import DepthToImage
from diffoundry.runtime.pipelines.tasks.editing import Editing
from diffoundry.runtime.pipelines.tasks.fill import Fill
from diffoundry.runtime.pipelines.tasks.image_conditioning import ImageConditioning
from diffoundry.runtime.pipelines.tasks.image_to_image import ImageToImage
from diffoundry.runtime.pipelines.tasks.inpainting import Inpainting
from diffoundry.runtime.pipelines.tasks.instruction import Instruction
from diffoundry.runtime.pipelines.tasks.kontext_inpainting import KontextInpainting
from diffoundry.runtime.pipelines.tasks.layer_decomposition import LayerDecomposition
from diffoundry.runtime.pipelines.tasks.omni_editing import OmniEditing
from diffoundry.runtime.pipelines.tasks.prompt_edit_inpainting import PromptEditInpainting
from diffoundry.runtime.pipelines.tasks.prompt_editing import PromptEditing, SeveralImageEditing
from diffoundry.runtime.pipelines.tasks.reference import Reference
from diffoundry.runtime.pipelines.tasks.reference_inpainting import ReferenceInpainting
from diffoundry.runtime.pipelines.tasks.upscaling import Upscaling

__all__ = ["TASKS", "other_task", "possible_tasks", "shows_example"]

TASKS: tuple[type[Task], ...] = (
    ControlInpainting,
    ControlNetInpainting,
    KontextInpainting,
    PromptEditInpainting,
    Inpainting,
    ReferenceInpainting,
    Fill,
    ControlImageToImage,
    ChannelControl,
    DepthToImage,
    Instruction,
    Upscaling,
    ImageToImage,
    PromptEditing,
    SeveralImageEditing,
    LayerDecomposition,
    Reference,
    Editing,
    ImageConditioning,
    OmniEditing,
    TextToImage,
)
"""Those with more required arguments come first."""


def possible_tasks(
    extra: int,
    latent: int,
    required: Collection[str],
    taken: Collection[str] = (),
    names: Collection[str] | None = None,
) -> tuple[type[Task], ...]:
    """Return the tasks of a checkpoint.

    Args:
        extra: Channels that its denoiser takes besides those of the latents.
        latent: Channels of the latents.
        required: As `Family.required_args`.
        taken: Arguments that the family itself takes, which rules out the tasks that take them.
        names: As `Family.tasks`.
    """
    fitting = [task for task in TASKS if task.fits(extra, latent) and not set(taken) & set(task.required_args)]
    known = [task for task in fitting if (not task.named_only if names is None else task.name in names)]
    return tuple(task for task in known if set(required) <= set(task.required_args))


def shows_example(pipeline_class: str) -> bool:
    """Return whether a measurement of a pipeline class of diffusers starts from an image, where it takes one."""
    entry = family_of_class(pipeline_class)
    name = None if entry is None else entry.classes[pipeline_class].task
    return all(getattr(task, "shows_example", True) for task in TASKS if task.name == name)


def other_task(name: str, task: type[Task], possible: Sequence[type[Task]], *, restricted: bool) -> str | None:
    """Return a hint for an argument that only other tasks take; None where no task takes it.

    Args:
        name: Of the argument.
        task: The task of the call.
        possible: As `possible_tasks`.
        restricted: True if the family cannot do tasks that the denoiser's channels allow.
    """
    others = [other for other in possible if other is not task and name in {field.name for field in fields(other)}]  # type: ignore[arg-type]  # every task is a dataclass
    if not others:
        labels = " and ".join(other.label for other in reversed(possible))
        known = restricted and any(name in {field.name for field in fields(other)} for other in TASKS)  # type: ignore[arg-type]  # every task is a dataclass
        return f"{labels} is all that this checkpoint does here; leave it out" if known else None
    ways = ", or ".join(f"{' and '.join(other.required_args)} for {other.label}" for other in reversed(others))
    return f"{task.label} has no such argument; pass {ways} too"
