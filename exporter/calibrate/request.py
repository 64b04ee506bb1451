"""Settings of calibration: its budget, its prompts, and how it generates images."""

from dataclasses import dataclass, field

from diffoundry.calibration.prompts import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS
from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.generation_tasks import PromptTask

__all__ = ["QuantizationRequest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationRequest:
    """Budget of calibration, and the images that it generates.

    Attributes:
        budget: Limits for every precision; without any, each precision has its own default.
        prompts: Prompts for measuring ranges and sensitivity.
        held_out: Prompts for checking the budget.
        steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance.
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; None takes the checkpoint's own size.
        threads: Threads of one call, or None for ONNX Runtime's own choice.
    """

    budget: Budget = field(default_factory=Budget)
    prompts: tuple[str, ...] = CALIBRATION_PROMPTS
    held_out: tuple[str, ...] = HELD_OUT_PROMPTS
    steps: int = 20
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None
    threads: int | None = None

    @property
    def task(self) -> PromptTask:
        """Task that generates the images."""
        return PromptTask(steps=self.steps, guidance_scale=self.guidance_scale, height=self.height, width=self.width)
