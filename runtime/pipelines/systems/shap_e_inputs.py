"""The arguments of Shap-E."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.image_prompts import ImagePromptInput, check_image_prompt, count_image_prompts
from diffoundry.runtime.pipelines.systems.prompt_inputs import PromptInputs

__all__ = ["ShapEImageInputs", "ShapEInputs", "refuse_renderer"]


def refuse_renderer(name: str, value: object, expected: str) -> InputError:
    """Return the error of an argument that asks for images or a mesh."""
    return InputError(
        f"{name}: got {value!r}, expected {expected}: a bundle of Shap-E makes latents, and has no renderer "
        f"(ShapERenderer); render the latents with diffusers"
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShapEInputs(PromptInputs):
    """The arguments of diffusers' `ShapEPipeline`.

    Attributes:
        prompt: One prompt or several.
        negative_prompt: Refused: guidance is away from a vector of zeros.
        num_images_per_prompt: Objects for every prompt.
        num_inference_steps: Steps of the scheduler; Heun's method calls the prior twice in each but the last.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        latents: Start noise, float32 (B, tokens * D) or (B, tokens, D), instead of drawing it.
        frame_size: Refused: nothing is rendered.
    """

    unconditional: ClassVar[str] = "a vector of zeros"

    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    latents: FloatArray | None = None
    frame_size: int | None = None

    def check(self) -> None:
        """Refuse missing prompts, negative prompts, numbers out of range, and a size of frames.

        Raises:
            InputError: As said.
        """
        self.check_prompt()
        check_number("guidance_scale", self.guidance_scale, 0)
        if self.frame_size is not None:
            raise refuse_renderer("frame_size", self.frame_size, "none")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShapEImageInputs:
    """The arguments of diffusers' `ShapEImg2ImgPipeline`.

    Attributes:
        image: See `ImagePromptInput`; each image is an object of its own.
        negative_prompt: Refused: guidance is away from states of zeros.
        num_images_per_prompt: Objects for every image.
        num_inference_steps: As in `ShapEInputs`.
        guidance_scale: As in `ShapEInputs`.
        latents: As in `ShapEInputs`, but already at the first noise level, as diffusers takes them here.
        frame_size: Refused: nothing is rendered.
    """

    image: ImagePromptInput = None
    negative_prompt: str | Sequence[str] | None = None
    num_images_per_prompt: int = 1
    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    latents: FloatArray | None = None
    frame_size: int | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return count_image_prompts(self.image)

    def check(self) -> None:
        """Refuse anything but images, texts, numbers out of range, and a size of frames.

        Raises:
            InputError: As said.
        """
        if self.image is None:
            raise InputError("image: got none, expected an image of an object")
        check_image_prompt(self.image)
        if self.negative_prompt is not None:
            raise InputError(
                f"negative_prompt: got {self.negative_prompt!r}, expected none: this checkpoint takes no text; leave "
                f"it out"
            )
        check_number("guidance_scale", self.guidance_scale, 0)
        if self.frame_size is not None:
            raise refuse_renderer("frame_size", self.frame_size, "none")
