"""The base of guidance that calls the denoiser another way in some steps."""

from typing import Any

from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray

__all__ = ["StepGuidance", "last_rows"]


class StepGuidance:
    """Guidance that makes a prediction itself."""

    __slots__ = ()

    def predict(
        self, denoiser: Denoiser | Any, sample: FloatArray, timestep: float, feeds: Feeds, index: int
    ) -> FloatArray:
        """Make one prediction (B, ...).

        Args:
            denoiser: Called once or more.
            sample: Its input, (copies * B, ...).
            timestep: Of the step.
            feeds: Its further inputs, (copies * B, ...).
            index: Of the step, 0 for the first.
        """
        raise NotImplementedError


def last_rows(feeds: Feeds, count: int) -> Feeds:
    """Return the last rows of each input, which are those of the prompts where negative prompts have rows too."""
    return {name: array[-count:] for name, array in feeds.items()}
