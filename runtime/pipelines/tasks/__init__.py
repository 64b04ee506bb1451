"""One file a task, and the table of tasks."""

from collections.abc import Collection, Sequence
from dataclasses import fields

from diffoundry.runtime.pipelines.tasks.base import Task, TextToImage
from diffoundry.runtime.pipelines.tasks.image_to_image import ImageToImage
from diffoundry.runtime.pipelines.tasks.inpainting import Inpainting
from diffoundry.runtime.pipelines.tasks.instruction import Instruction

__all__ = ["TASKS", "other_task", "possible_tasks"]

TASKS: tuple[type[Task], ...] = (Inpainting, Instruction, ImageToImage, TextToImage)
"""Those with more required arguments come first."""


def possible_tasks(
    extra: int, latent: int, required: Collection[str], taken: Collection[str] = ()
) -> tuple[type[Task], ...]:
    """Return the tasks of a checkpoint.

    Args:
        extra: Channels that its denoiser takes besides those of the latents.
        latent: Channels of the latents.
        required: As `Family.required_args`.
        taken: Arguments that the family itself takes, which rules out the tasks that take them.
    """
    fitting = [task for task in TASKS if task.fits(extra, latent) and not set(taken) & set(task.required_args)]
    return tuple(task for task in fitting if set(required) <= set(task.required_args))


def other_task(name: str, task: type[Task], possible: Sequence[type[Task]]) -> str | None:
    """Return a hint for an argument that only other tasks of the checkpoint take; None where no task takes it."""
    others = [other for other in possible if other is not task and name in {field.name for field in fields(other)}]  # type: ignore[arg-type]  # every task is a dataclass
    if not others:
        return None
    ways = ", or ".join(f"{' and '.join(other.required_args)} for {other.label}" for other in reversed(others))
    return f"{task.label} has no such argument; pass {ways} too"
