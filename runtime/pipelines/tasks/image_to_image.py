"""Image to image: an image gets noise and is denoised from there."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.pipelines.latents import LatentCodec
from diffoundry.runtime.pipelines.request import Request, check_fraction
from diffoundry.runtime.pipelines.tasks.base import FloatArray, Stage, Start, Task
from diffoundry.runtime.pipelines.tasks.schedule import check_strength, start_timesteps
from diffoundry.runtime.pipelines.tasks.source_images import (
    are_latents,
    check_own_size,
    fill_batch,
    image_size,
    read_image,
)
from diffoundry.runtime.random import randn_tensor

__all__ = ["ImageToImage"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageToImage(Task):
    """diffusers: `StableDiffusionImg2ImgPipeline`, `StableDiffusionXLImg2ImgPipeline`.

    Meng et al. 2021, SDEdit, https://arxiv.org/abs/2108.01073.

    Attributes:
        image: What to begin with: one image for all, or several, whose sides are multiples of the VAE's factor; or
            latents (B, C, h, w) in the denoiser's scale, as output_type "latent" gives them.
        strength: How much of it may change, above 0 to 1; less runs fewer steps.
        denoising_start: The fraction of the schedule that the image has behind it, above 0 and below 1, in place of
            `strength`: no noise is added, for another model has left it. None is off.
    """

    name: ClassVar[str] = "image_to_image"
    label: ClassVar[str] = "image to image"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    from_image: ClassVar[bool] = True

    image: ImageInput
    strength: float = 0.8
    denoising_start: float | None = None

    def check(self, request: Request) -> None:
        """See `Task.check`."""
        check_strength(self.strength)
        check_fraction("denoising_start", self.denoising_start)
        if request.latents is not None:
            raise InputError("latents: got them with image, expected one of the two; latents may be passed as image")

    def size(self, request: Request, default: tuple[int, int], codec: LatentCodec) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: the image's own."""
        if are_latents(self.image, codec.channels):
            height, width = (side * codec.factor for side in self.image.shape[2:])
        else:
            height, width = image_size(self.image)
        check_own_size(request, height, width, codec.factor)
        return height, width

    def begin(self, stage: Stage) -> Start:
        """Draw latents of the image, then noise; diffusers: `prepare_latents`."""
        timesteps = start_timesteps(stage.scheduler, stage.steps, self.strength, self.denoising_start)
        latents = self._encode(stage)
        if self.denoising_start is None:
            noise = randn_tensor(stage.shape, stage.generator).astype(np.float32)
            latents = stage.add_noise(latents, noise, timesteps[0])
        return Start(latents=latents, timesteps=timesteps)

    def _encode(self, stage: Stage) -> FloatArray:
        """The image's latents, a row for each image to generate."""
        if are_latents(self.image, stage.codec.channels):
            return fill_batch(np.asarray(self.image, np.float32), stage.images)
        pixels = read_image(self.image)
        if isinstance(stage.generator, list | tuple):  # each generator draws its image's own
            pixels = fill_batch(pixels, stage.images)
        drawn = stage.codec.sample(pixels, stage.generator)
        return fill_batch(stage.codec.normalize(drawn), stage.images)
