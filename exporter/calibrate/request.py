"""Settings of calibration: its budget, its prompts, and how it generates images."""

from dataclasses import dataclass, field, replace
from typing import Self

from diffoundry.calibration.prompts import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS
from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.generation_tasks import PromptTask
from diffoundry.runtime.errors import InputError

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
        calibrate: False quantizes every layer that can be, for precisions that quantize weights alone, and generates no
            image.
        ray: Address of the Ray cluster whose workers measure layers alone, or None for this process. The result is the
            same where the processors compute alike.
    """

    budget: Budget = field(default_factory=Budget)
    prompts: tuple[str, ...] = CALIBRATION_PROMPTS
    held_out: tuple[str, ...] = HELD_OUT_PROMPTS
    steps: int = 20
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None
    threads: int | None = None
    calibrate: bool = True
    ray: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check that nothing is asked of images that are not generated.

        Raises:
            InputError: Limits or prompts without calibration.
        """
        if self.calibrate:
            return
        asked = {
            "--min-psnr": self.budget.min_psnr is not None,
            "--max-size": self.budget.max_size is not None,
            "--calibration-prompts": (self.prompts, self.held_out) != (CALIBRATION_PROMPTS, HELD_OUT_PROMPTS),
            "--ray": self.ray is not None,
        }
        names = [name for name, present in asked.items() if present]
        if names:
            raise InputError(
                f"--no-calibration: got {' and '.join(names)} as well, expected one or the other: budgets and prompts "
                f"need images; leave --no-calibration out, or {' and '.join(names)}"
            )

    @property
    def local(self) -> Self:
        """The same without a cluster, which changes no number: what a journal keeps."""
        return replace(self, ray=None)

    @property
    def task(self) -> PromptTask:
        """Task that generates the images."""
        return PromptTask(steps=self.steps, guidance_scale=self.guidance_scale, height=self.height, width=self.width)
