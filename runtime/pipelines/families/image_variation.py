"""Image variation: the denoiser is conditioned on an image, encoded by CLIP, instead of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.clip_vision import CLIPVisionModelWithProjection
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.guidance import Condition
from diffoundry.runtime.pipelines.image_prompts import (
    ImagePromptInput,
    check_image_prompt,
    count_image_prompts,
    encode_image_prompts,
)

__all__ = ["ImagePrompt", "ImageVariation"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImagePrompt:
    """The images of one call, instead of prompts.

    Attributes:
        image: See `ImagePromptInput`.
        prompt: Refused: there is no text encoder.
        negative_prompt: Refused.
    """

    image: ImagePromptInput = None
    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return count_image_prompts(self.image)

    def check(self) -> None:
        """Refuse texts, and anything that is no image.

        Raises:
            InputError: Subject, got, expected.
        """
        for name in ("prompt", "negative_prompt"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name}: got {getattr(self, name)!r}, expected none: this checkpoint generates variations of an "
                    f"image and takes no text; leave it out"
                )
        if self.image is None:
            raise InputError("image: got none, expected an image: variations of it are what this checkpoint generates")
        check_image_prompt(self.image)


class ImageVariation(Family):
    """diffusers: `StableDiffusionImageVariationPipeline`."""

    Inputs: ClassVar[type[Any]] = ImagePrompt
    returns_flags: ClassVar[bool] = True

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser = UNet2DConditionModel(session)
        self._encoder = CLIPVisionModelWithProjection(session)

    def encode(self, inputs: ImagePrompt, options: EncodeOptions) -> Condition:
        """See `Family`; the unconditional rows are zeros. diffusers: `_encode_image`."""
        states = np.repeat(
            encode_image_prompts(self._encoder, inputs.image)[:, None], options.images_per_prompt, axis=0
        )
        return Condition(
            conditional={"encoder_hidden_states": states},
            unconditional={"encoder_hidden_states": np.zeros_like(states)} if options.guided else None,
            truncated=("",) * inputs.count,
        )
