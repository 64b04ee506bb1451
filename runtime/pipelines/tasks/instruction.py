"""Instruction: changes an image as a text says."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.guidance import Condition, Guidance, Unguided, stack
from diffoundry.runtime.pipelines.guidance_rescale import rescale_noise
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.source_images import (
    check_own_size,
    fill_batch,
    image_size,
    read_image,
)

__all__ = ["Instruction"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionGuidance:
    """Guidance by text and image: e = e_0 + s (e_TI - e_I) + s_I (e_I - e_0).

    Brooks et al. 2023, equation 3, https://arxiv.org/abs/2211.09800. The rows are those for text and image, for the
    image alone, and for neither.

    Attributes:
        scale: s, above 1.
        image_scale: s_I, at least 1.
        rescale: As `ClassifierFreeGuidance.rescale`, of e_TI.
    """

    copies: ClassVar[int] = 3
    guided: ClassVar[bool] = True

    scale: float
    image_scale: float
    rescale: float = 0.0

    def feeds(self, condition: Condition) -> Feeds:
        """See `Guidance.feeds`."""
        assert condition.unconditional is not None
        return stack([condition.conditional, condition.unconditional, condition.unconditional])

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        both, image, neither = np.split(output, 3)
        guided: FloatArray = neither + self.scale * (both - image) + self.image_scale * (image - neither)
        return rescale_noise(guided, both, self.rescale) if self.rescale > 0 else guided


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Instruction(Task):
    """diffusers: `StableDiffusionInstructPix2PixPipeline`, `StableDiffusionXLInstructPix2PixPipeline`.

    Brooks et al. 2023, InstructPix2Pix, https://arxiv.org/abs/2211.09800. The denoiser takes the image's latents
    in further channels.

    Attributes:
        image: The image, or several, whose sides are multiples of the VAE's factor.
        image_guidance_scale: Closeness to the image; below 1 runs without guidance, as `guidance_scale` of 1 or less.
    """

    name: ClassVar[str] = "instruction"
    label: ClassVar[str] = "changing an image by instruction"
    required_args: ClassVar[tuple[str, ...]] = ("image",)
    from_image: ClassVar[bool] = True
    sized_by_image: ClassVar[bool] = True

    image: ImageInput
    image_guidance_scale: float = 1.5

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:
        """See `Task.fits`: the latents of an image."""
        return extra == latent

    def check(self, inputs: CommonInputs, family: Family) -> None:
        """See `Task.check`."""
        scale = self.image_guidance_scale
        if not isinstance(scale, int | float) or not 0 <= scale < np.inf:
            raise InputError(f"image_guidance_scale: got {scale!r}, expected a number of at least 0")
        if inputs.guidance_rescale and not family.rescales_instruction:
            raise InputError(
                f"guidance_rescale: got {inputs.guidance_rescale}, expected 0: it is for guidance by text alone"
            )

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: the image's own."""
        height, width = image_size(self.image)
        check_own_size(inputs, height, width, vae.scale_factor)
        return height, width

    def guidance(self, inputs: CommonInputs, denoiser: Denoiser) -> Guidance:  # noqa: ARG002
        """Return guidance by both scales, or none."""
        if inputs.guidance_scale > 1 and self.image_guidance_scale >= 1:
            rescale = inputs.guidance_rescale
            return InstructionGuidance(
                scale=inputs.guidance_scale, image_scale=self.image_guidance_scale, rescale=rescale
            )
        return Unguided()

    def begin(self, context: TaskContext) -> LoopInit:
        """Start from noise, and join the likeliest latents of the image in the VAE's own scale.

        The last of the guided rows are without the image. diffusers: `prepare_image_latents`.
        """
        image = fill_batch(context.vae.mode(read_image(self.image)), context.images)
        rows = [image] if context.copies == 1 else [image, image, np.zeros_like(image)]
        latents = context.noise() * context.noise_scale
        return LoopInit(latents=latents, timesteps=context.scheduler.model_timesteps, channels=np.concatenate(rows))
