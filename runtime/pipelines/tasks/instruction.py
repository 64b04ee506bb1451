"""Instruction: an image is changed as a text says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.pipelines.guidance import Guidance, InstructionGuidance, Unguided
from diffoundry.runtime.pipelines.latents import LatentCodec
from diffoundry.runtime.pipelines.request import Request
from diffoundry.runtime.pipelines.tasks.base import Stage, Start, Task
from diffoundry.runtime.pipelines.tasks.source_images import (
    check_own_size,
    fill_batch,
    image_size,
    read_image,
)

__all__ = ["Instruction"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Instruction(Task):
    """diffusers: `StableDiffusionInstructPix2PixPipeline`.

    Brooks et al. 2023, InstructPix2Pix, https://arxiv.org/abs/2211.09800. The UNet is fed the image's latents beside
    the noisy ones.

    Attributes:
        image: The image, or several, whose sides are multiples of the VAE's factor.
        image_guidance_scale: How near to the image; below 1 nothing is guided, as with `guidance_scale` of 1 or less.
    """

    name: ClassVar[str] = "instruction"
    label: ClassVar[str] = "changing an image as told"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    from_image: ClassVar[bool] = True

    image: ImageInput
    image_guidance_scale: float = 1.5

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:
        """See `Task.fits`: the latents of an image."""
        return extra == latent

    def check(self, request: Request) -> None:
        """See `Task.check`."""
        scale = self.image_guidance_scale
        if not isinstance(scale, int | float) or not 0 <= scale < np.inf:
            raise InputError(f"image_guidance_scale: got {scale!r}, expected a number of at least 0")
        if request.guidance_rescale:
            raise InputError(
                f"guidance_rescale: got {request.guidance_rescale}, expected 0: it is for guidance by text alone"
            )

    def size(self, request: Request, default: tuple[int, int], codec: LatentCodec) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: the image's own."""
        height, width = image_size(self.image)
        check_own_size(request, height, width, codec.factor)
        return height, width

    def guidance(self, request: Request, unet: Mapping[str, Any]) -> Guidance:  # noqa: ARG002
        """Both scales, or none."""
        if request.guidance_scale > 1 and self.image_guidance_scale >= 1:
            return InstructionGuidance(scale=request.guidance_scale, image_scale=self.image_guidance_scale)
        return Unguided()

    def begin(self, stage: Stage) -> Start:
        """Noise, and the likeliest latents of the image in the VAE's own scale; diffusers: `prepare_image_latents`.

        Of the guided rows the last are without the image.
        """
        image = fill_batch(stage.codec.mode(read_image(self.image)), stage.images)
        rows = [image] if stage.copies == 1 else [image, image, np.zeros_like(image)]
        latents = stage.noise() * float(stage.scheduler.init_noise_sigma)
        return Start(latents=latents, timesteps=stage.scheduler.timesteps, channels=np.concatenate(rows))
