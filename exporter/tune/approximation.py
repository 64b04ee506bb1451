"""An approximation of the loop as text, such as "steps=12,cache=taylor:1", and as arguments of a call."""

from dataclasses import dataclass
from typing import Any

from diffoundry.runtime.checks.approximations import check_approximations
from diffoundry.runtime.cli.approximation_options import read_interval
from diffoundry.runtime.errors import InputError

__all__ = ["Approximation", "parse_approximation"]

_NAMES = ("steps", "scheduler", "guidance-interval", "cache")

_EXAMPLE = "guidance-interval=0.2:0.8,cache=taylor:1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Approximation:
    """Changes of a call that make it faster and its image another one; None changes nothing.

    Attributes:
        steps: Other number of steps.
        scheduler: Name of another scheduler.
        guidance_interval: As `CommonInputs.guidance_interval`.
        cache: As `CommonInputs.cache`.
    """

    steps: int | None = None
    scheduler: str | None = None
    guidance_interval: tuple[float, float] | None = None
    cache: str | None = None

    @property
    def text(self) -> str:
        """As `parse_approximation` reads it."""
        interval = self.guidance_interval
        values = {
            "steps": self.steps,
            "scheduler": self.scheduler,
            "guidance-interval": None if interval is None else ":".join(f"{one:g}" for one in interval),
            "cache": self.cache,
        }
        return ",".join(f"{name}={value}" for name, value in values.items() if value is not None)

    def arguments(self) -> dict[str, Any]:
        """Arguments of a pipeline's call."""
        values = {
            "num_inference_steps": self.steps,
            "scheduler": self.scheduler,
            "guidance_interval": self.guidance_interval,
            "cache": self.cache,
        }
        return {name: value for name, value in values.items() if value is not None}


def parse_approximation(text: str, subject: str = "--approximation") -> Approximation:
    """Read an approximation; `subject` names the option in messages.

    Raises:
        InputError: An unknown name, a name twice, or a value that does not fit it.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in _NAMES or not value:
            raise InputError(
                f"{subject}: got {part.strip()!r}, expected NAME=VALUE with one of the names {', '.join(_NAMES)}, such "
                f"as {_EXAMPLE}"
            )
        if name in values:
            raise InputError(f"{subject}: got {name} twice, expected it once")
        values[name] = value
    steps = values.get("steps")
    if steps is not None and not (steps.isdigit() and 0 < int(steps) <= 100_000):
        raise InputError(f"{subject}: got steps={steps}, expected a whole number of at least 1")
    interval, cache = values.get("guidance-interval"), values.get("cache")
    read = None if interval is None else read_interval(interval, f"{subject} guidance-interval")
    check_approximations(read, cache)
    return Approximation(
        steps=None if steps is None else int(steps),
        scheduler=values.get("scheduler"),
        guidance_interval=None if read is None else (read[0], read[1]),
        cache=cache,
    )
