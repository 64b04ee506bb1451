"""The arguments of the pipelines of Kandinsky 3, under diffusers' names."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.checks.arguments import check_number, check_pixels
from diffoundry.runtime.checks.token_masks import check_token_mask
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.inputs import PromptInputs
from diffoundry.runtime.pipelines.tasks.schedule import check_strength

__all__ = ["Kandinsky3ImageInputs", "Kandinsky3Inputs", "Kandinsky3TextInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kandinsky3Inputs(PromptInputs):
    """The arguments of both pipelines.

    Attributes:
        attention_mask: (B, tokens), 1 for a token of `prompt_embeds` and 0 for padding; needed with them alone.
        negative_attention_mask: The same of `negative_prompt_embeds`.
        height: Pixels; None takes 1024, or that of the image to start from.
        width: Pixels; likewise.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        num_images_per_prompt: Images for every prompt.
    """

    attention_mask: Any = None
    negative_attention_mask: Any = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    num_images_per_prompt: int = 1

    def check(self) -> None:
        """Refuse wrong prompts, masks that do not fit their embeddings, and numbers out of range.

        Raises:
            InputError: As said.
        """
        PromptInputs.check(self)
        for prefix in ("", "negative_"):
            name, embeds = f"{prefix}attention_mask", f"{prefix}prompt_embeds"
            check_token_mask(name, getattr(self, name), embeds, getattr(self, embeds))
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kandinsky3TextInputs(Kandinsky3Inputs):
    """The arguments of diffusers' `Kandinsky3Pipeline`.

    Attributes:
        latents: Start noise, float32 (B, C, height/8, width/8), instead of drawing it.
    """

    latents: FloatArray | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kandinsky3ImageInputs(Kandinsky3Inputs):
    """The arguments of diffusers' `Kandinsky3Img2ImgPipeline`.

    Attributes:
        image: The image to start from, or one for each prompt.
        strength: Fraction of the schedule that is run, above 0 to 1. Less changes the image less.
    """

    image: "ImageInput | None" = None
    strength: float = 0.3

    def check(self) -> None:
        """See `Kandinsky3Inputs.check`; an image is needed too.

        Raises:
            InputError: As said.
        """
        Kandinsky3Inputs.check(self)
        check_strength(self.strength)
        if self.image is None:
            raise InputError("image: got none, expected the image to start from")
