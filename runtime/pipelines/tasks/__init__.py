"""One file a task: what is made of what. `choose_task` finds it by the arguments of a call."""

from collections.abc import Collection, Sequence

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.tasks.base import Task
from diffoundry.runtime.pipelines.tasks.image_to_image import ImageToImage
from diffoundry.runtime.pipelines.tasks.inpainting import Inpainting
from diffoundry.runtime.pipelines.tasks.instruction import Instruction
from diffoundry.runtime.pipelines.tasks.text_to_image import TextToImage

__all__ = ["TASKS", "choose_task", "possible_tasks"]

TASKS: tuple[type[Task], ...] = (Inpainting, Instruction, ImageToImage, TextToImage)
"""Those that need more arguments stand first."""


def possible_tasks(
    extra: int, latent: int, needs: Collection[str], taken: Collection[str] = ()
) -> tuple[type[Task], ...]:
    """What a checkpoint can be asked for.

    Args:
        extra: Channels that its denoiser takes beside those of the latents.
        latent: Channels of the latents.
        needs: As `Family.needs`.
        taken: Arguments that the family itself takes, so that no task can be asked with them.
    """
    fitting = [task for task in TASKS if task.fits(extra, latent) and not set(taken) & set(task.needs)]
    return tuple(task for task in fitting if set(needs) <= set(task.needs))


def choose_task(possible: Sequence[type[Task]], given: Collection[str]) -> type[Task]:
    """The task that has the arguments given.

    Args:
        possible: As `possible_tasks`.
        given: Names of the arguments that are not None.

    Raises:
        InputError: Something is missing for everything that this checkpoint can do.
    """
    for task in possible:
        if set(task.needs) <= set(given):
            return task
    least = possible[-1]
    missing = [name for name in least.needs if name not in given]
    raise InputError(
        f"{missing[0]}: got none, expected {' and '.join(least.needs)}: {least.label} is what this checkpoint does"
    )
