"""The steps after which a request shows a preview."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.run import Run
from diffoundry.runtime.pipelines.staged_run import StagedRun

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["check_previews", "preview_steps", "show_preview"]


def check_previews(previews: int | Collection[int]) -> None:
    """Refuse what is no number of previews and no collection of steps.

    Raises:
        InputError: As said.
    """
    steps = [previews] if isinstance(previews, int) else previews
    whole = isinstance(steps, Collection) and not isinstance(steps, str | bytes)
    if not whole or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in steps):
        raise InputError(f"previews: got {previews!r}, expected a number of previews, or indices of steps from 0 on")


def preview_steps(previews: int | Collection[int], total: int) -> Collection[int]:
    """Return the indices of the steps after which there is a preview.

    A number of them is spread evenly, and the last step has none: 2 of 10 steps are those with the indices 2 and 5.
    """
    if not isinstance(previews, int):
        return previews
    return {(place + 1) * total // (previews + 1) - 1 for place in range(previews)} - {-1, total - 1}


def show_preview(run: Run[Any]) -> "list[Image] | None":
    """Decode the current latents; None in a stage whose latents are no image."""
    try:
        return run.preview()
    except InputError:
        if isinstance(run, StagedRun):
            return None
        raise
