"""Request of a benchmark: one image, generated repeatedly."""

from dataclasses import dataclass
from typing import Any

from diffoundry.runtime.errors import InputError

__all__ = ["BenchRequest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRequest:
    """One image and the number of times it is generated. Its fields are those of `pipelines.inputs.CommonInputs`.

    Attributes:
        prompt: The prompt.
        negative_prompt: Content to keep out of the image.
        steps: Steps of the scheduler.
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; None takes the checkpoint's own size.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        seed: Seed of torch's CPU generator.
        warmups: Images generated and dropped after the first one, before anything warm is measured.
        repeats: Images measured.
    """

    prompt: str = "red apple"
    negative_prompt: str | None = None
    steps: int = 20
    height: int | None = None
    width: int | None = None
    guidance_scale: float = 7.5
    seed: int = 0
    warmups: int = 1
    repeats: int = 5

    def __post_init__(self) -> None:
        """Check the counts; the pipeline checks the rest before it generates.

        Raises:
            InputError: No measured image, or a negative count.
        """
        for name, least in (("repeats", 1), ("warmups", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least {least}")

    def image_arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's call in diffusers' names, without prompt, seed and size."""
        return {
            "negative_prompt": self.negative_prompt,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
        }
