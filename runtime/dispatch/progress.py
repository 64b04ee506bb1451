"""The progress of a request, and those who follow it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Listener", "Progress", "State", "tell_listener"]

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "cancelled", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One finished step of a request.

    Attributes:
        index: 0 for the first.
        total: Number of steps; in a chain it may grow when the second pipeline begins.
        timestep: As the scheduler counts.
        stage: As `Step.stage`.
        seconds: Since the run was started.
        images: A preview: the images of the current latents. None where none was requested, and in stages whose latents
            are no image.
    """

    index: int
    total: int
    timestep: float
    stage: str
    seconds: float
    images: "list[Image] | None" = field(default=None, repr=False)


Listener = Callable[[Progress | None], object]
"""Gets each progress, then None once the request has finished."""


def tell_listener(listener: Listener, event: Progress | None) -> None:
    """Call a listener; its errors are logged only."""
    try:
        listener(event)
    except Exception:
        logger.exception("a listener of a request failed; the request goes on")
