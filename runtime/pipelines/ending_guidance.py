"""The base of guidance by negative prompts that some of the steps do without."""

from typing import Any

from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.step_guidance import StepGuidance, last_rows

__all__ = ["EndingGuidance"]


class EndingGuidance(StepGuidance):
    """Guidance of two rows an image, negative prompts first, that runs the prompts alone in some of the steps."""

    __slots__ = ()

    def guides(self, timestep: float, index: int) -> bool:
        """Return whether a step is guided.

        Args:
            timestep: Of the step.
            index: Of the step, 0 for the first.
        """
        raise NotImplementedError

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        raise NotImplementedError

    def predict(
        self, denoiser: Denoiser | Any, sample: FloatArray, timestep: float, feeds: Feeds, index: int
    ) -> FloatArray:
        """See `StepGuidance.predict`."""
        if self.guides(timestep, index):
            return self.combine(denoiser(sample, timestep, feeds))
        rows = len(sample) // 2
        prediction: FloatArray = denoiser(sample[rows:], timestep, last_rows(feeds, rows))
        return prediction
