"""Upscaling: a small image and a prompt to a large image."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, read_image
from diffoundry.runtime.random import randn_tensor

__all__ = ["Upscaling"]

_COLOURS = 3
"""Channels of an image."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Upscaling(Task):
    """diffusers: `StableDiffusionUpscalePipeline`.

    Saharia et al. 2021, https://arxiv.org/abs/2104.07636. The denoiser takes the small image, with some noise, in
    further channels. Latents have its size, so that the VAE decides how much larger the result is.

    Attributes:
        image: The small image, or one for each prompt, whose sides are multiples of the VAE's scale factor.
        noise_level: Timestep of the noise on the small image, 0 to the checkpoint's `max_noise_level`. More gives more
            freedom.
    """

    name: ClassVar[str] = "upscaling"
    label: ClassVar[str] = "upscaling"
    required_args: ClassVar[tuple[str, ...]] = ("image",)
    from_image: ClassVar[bool] = True
    sized_by_image: ClassVar[bool] = True
    upscales: ClassVar[bool] = True
    named_only: ClassVar[bool] = True

    image: ImageInput
    noise_level: int = 20

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:  # noqa: ARG003
        """See `Task.fits`: the colours of an image."""
        return extra == _COLOURS

    def check(self, inputs: CommonInputs, family: Family) -> None:  # noqa: ARG002
        """See `Task.check`; the largest level is known with the checkpoint."""
        check_number("noise_level", self.noise_level, 0, whole=True)

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: the small image's, enlarged by the VAE."""
        height, width = image_size(self.image)
        factor = vae.scale_factor
        if height % factor or width % factor:
            raise InputError(f"image: got {width} x {height} pixels, expected multiples of {factor}; resize or crop it")
        for name, side in (("height", height), ("width", width)):
            asked = getattr(inputs, name)
            if asked is not None and asked != side * factor:
                raise InputError(
                    f"{name}: got {asked}, expected {side * factor}, {factor} times that of the image; leave it out"
                )
        return height * factor, width * factor

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw the noise of the small image, then that of the latents."""
        noising = context.family.noising_scheduler
        largest = context.family.max_noise_level
        if self.noise_level > largest:
            raise InputError(f"noise_level: got {self.noise_level}, expected at most {largest} for this checkpoint")
        pixels = read_image(self.image)
        noise = randn_tensor(pixels.shape, context.generator).astype(np.float32)
        noisy = noising.add_noise(pixels, noise, np.full(len(pixels), self.noise_level))
        rows = fill_batch(noisy, context.images)
        return LoopInit(
            latents=context.noise() * context.noise_scale,
            timesteps=context.scheduler.model_timesteps,
            channels=np.concatenate([rows] * context.copies),
            feeds={"class_labels": np.full(context.copies * context.images, self.noise_level, np.int32)},
        )
