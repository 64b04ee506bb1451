"""What passes between an export and its workers: a job one way, an outcome the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffoundry.runtime.specs import ComponentSpec, Recipe

__all__ = ["Job", "Outcome"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a worker is told.

    Attributes:
        checkpoint: What `Checkpoint.describe` gave, to open it again.
        component: Name of the component.
        recipe: The bundle's recipe.
        folder: The bundle's partial folder; the component's own folder in it exists and is empty.
    """

    checkpoint: Mapping[str, Any]
    component: str
    recipe: Recipe
    folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a worker says at its end.

    Attributes:
        spec: The component's entry of the manifest, or None after an error.
        seconds: Phase ("load", "trace", "passes", "save", "lower") to its seconds.
        peak_rss: Largest resident memory of the process in bytes.
        error: One sentence, or None.
        details: The traceback of an error that is not the user's.
    """

    spec: ComponentSpec | None = None
    seconds: Mapping[str, float]
    peak_rss: int
    error: str | None = None
    details: str | None = None
