"""Inpainting by FLUX.1 Kontext: generates a part of an image again, which the denoiser sees beside the latents."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.flux_transformer_2d import REFERENCE
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, TaskContext
from diffoundry.runtime.pipelines.tasks.inpainting import Inpainting, generators_of, restore_kept
from diffoundry.runtime.pipelines.tasks.reference import encode_reference, reference_size
from diffoundry.runtime.pipelines.tasks.schedule import start_timesteps
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch

__all__ = ["KontextInpainting"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KontextInpainting(Inpainting):
    """diffusers: `FluxKontextInpaintPipeline`.

    Attributes:
        image_reference: Another image for the denoiser to see, one or several; None shows it `image` itself.
        max_area: Without effect, as in diffusers: the image decides the size of the result.
        _auto_resize: True resizes images to the size of the training with the closest ratio, False keeps their own.
    """

    name: ClassVar[str] = "kontext_inpainting"
    label: ClassVar[str] = "editing a part of an image"
    named_only: ClassVar[bool] = True

    image_reference: "ImageInput | None" = None
    max_area: int = 1024**2
    _auto_resize: bool = True

    def check(self, inputs: CommonInputs, family: Family) -> None:
        """See `Task.check`."""
        for name in ("padding_mask_crop", "masked_image_latents"):
            if getattr(self, name) is not None:
                raise InputError(f"{name}: {self.label} has none; leave it out")
        Inpainting.check(self, inputs, family)

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: that to which the image is resized."""
        size = reference_size(vae, self.image, resize=self._auto_resize)
        for name, side in zip(("height", "width"), size, strict=True):
            asked = getattr(inputs, name)
            if asked not in (None, side):
                raise InputError(
                    f"{name}: got {asked}, expected {side}, the size to which the image is resized; leave it out, or "
                    f"pass _auto_resize=False, which keeps the image's own size"
                )
        return size

    def begin(self, context: TaskContext) -> LoopInit:
        """Encode the likeliest latents of the images, and draw noise; diffusers: `prepare_latents`."""
        scheduler = context.scheduler
        timesteps = start_timesteps(scheduler, context.steps, self.strength, self.denoising_start, flow=True)
        pixels, mask = self._read(context, None)
        image = shown = fill_batch(context.vae.normalize(context.vae.mode(pixels)), context.images)
        if self.image_reference is not None:
            other = encode_reference(
                context.vae, self.image_reference, resize=self._auto_resize, name="image_reference"
            )
            shown = fill_batch(other, context.images, "image_reference")
        noise = context.noise()
        latents = self._first_latents(context, image, noise, timesteps)
        context.vae.draw(pixels, generators_of(context, len(pixels)))  # of the kept part, which is unused
        small = fill_batch(self._shrink(mask, context.vae.scale_factor), context.images, "mask_image")
        return LoopInit(
            latents=latents,
            timesteps=timesteps,
            after_step=partial(restore_kept, context, image, noise, small),
            feeds={REFERENCE: np.concatenate([shown] * context.copies)},
        )
