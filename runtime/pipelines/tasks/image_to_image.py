"""Image to image: adds noise to an image and denoises from there."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_fraction
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.schedule import add_noise, check_strength, start_timesteps
from diffoundry.runtime.pipelines.tasks.source_images import (
    check_own_size,
    fill_batch,
    image_size,
    latents_of,
    read_image,
)
from diffoundry.runtime.random import randn_tensor

__all__ = ["ImageToImage"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageToImage(Task):
    """diffusers: `StableDiffusionImg2ImgPipeline`, and the `Img2Img` pipelines of XL and 3.

    Meng et al. 2021, SDEdit, https://arxiv.org/abs/2108.01073.

    Attributes:
        image: The start: one image for all, or several, whose sides are multiples of the VAE's scale factor; or
            latents (B, C, h, w) in the denoiser's scale, as output_type "latent" gives them.
        strength: Fraction of the schedule that is run, above 0 to 1; less changes the image less.
        denoising_start: The fraction of the schedule that another model has already run, above 0 and below 1, instead
            of `strength`; no noise is added. None is off.
    """

    name: ClassVar[str] = "image_to_image"
    label: ClassVar[str] = "image to image"
    required_args: ClassVar[tuple[str, ...]] = ("image",)
    from_image: ClassVar[bool] = True
    sized_by_image: ClassVar[bool] = True

    image: ImageInput
    strength: float = 0.8
    denoising_start: float | None = None

    def check(self, inputs: CommonInputs, family: Family) -> None:  # noqa: ARG002
        """See `Task.check`."""
        check_strength(self.strength)
        check_fraction("denoising_start", self.denoising_start)
        if inputs.latents is not None:
            raise InputError("latents and image: got both, expected one of them; pass the latents as image")

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: the image's own."""
        latents = latents_of(self.image, vae.latent_channels)
        if latents is None:
            height, width = image_size(self.image)
        else:
            height, width = (side * vae.scale_factor for side in latents.shape[2:])
        check_own_size(inputs, height, width, vae.scale_factor)
        return height, width

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw latents of the image, then noise; diffusers: `prepare_latents`."""
        scheduler = context.scheduler
        timesteps = scheduler.model_timesteps
        if not context.family.plans_strength:
            flow = not context.family.scales_latents
            timesteps = start_timesteps(scheduler, context.steps, self.strength, self.denoising_start, flow=flow)
        latents = self._encode(context)
        if self.denoising_start is None:
            noise = randn_tensor(context.shape, context.generator).astype(np.float32)
            latents = add_noise(context.scheduler, latents, noise, timesteps[0])
        return LoopInit(latents=latents, timesteps=timesteps)

    def _encode(self, context: TaskContext) -> FloatArray:
        """Return the image's latents, a row for each image to generate."""
        latents = latents_of(self.image, context.vae.latent_channels)
        if latents is not None:
            return fill_batch(latents, context.images)
        pixels = read_image(self.image)
        if isinstance(context.generator, list | tuple):  # each generator draws its image's own
            pixels = fill_batch(pixels, context.images)
        drawn = context.vae.sample(pixels, context.generator)
        return fill_batch(context.vae.normalize(drawn), context.images)
