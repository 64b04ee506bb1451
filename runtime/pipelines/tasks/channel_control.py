"""Control by an image whose latents are further channels of the denoiser: of a prompt, or from another image."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.image_to_image import ImageToImage
from diffoundry.runtime.pipelines.tasks.inpainting import Inpainting, generators_of
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, read_image

__all__ = ["ChannelControl", "ControlImageToImage", "ControlInpainting"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChannelControl(Task):
    """diffusers: `FluxControlPipeline`.

    Attributes:
        control_image: A prepared image (edges, depth ...) for all prompts, or one for each; resized to the size that is
            generated.
    """

    name: ClassVar[str] = "control"
    label: ClassVar[str] = "control by an image"
    required_args: ClassVar[tuple[str, ...]] = ("control_image",)
    from_image: ClassVar[bool] = True
    named_only: ClassVar[bool] = True

    control_image: ImageInput

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:
        """See `Task.fits`: the latents of an image."""
        return extra == latent

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw latents of the image for each result, then noise; diffusers: `FluxControlPipeline.__call__`."""
        channels = _draw_channels(self.control_image, context)
        return LoopInit(
            latents=context.noise() * context.noise_scale,
            timesteps=start_at_index(context.scheduler, context.begin_index or 0),
            channels=channels,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ControlImageToImage(ImageToImage):
    """diffusers: `FluxControlImg2ImgPipeline`.

    Attributes:
        control_image: As `ChannelControl.control_image`.
    """

    name: ClassVar[str] = "control_image_to_image"
    label: ClassVar[str] = "image to image with a control image"
    required_args: ClassVar[tuple[str, ...]] = ("image", "control_image")
    named_only: ClassVar[bool] = True

    control_image: ImageInput

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:
        """See `Task.fits`: the latents of an image."""
        return ChannelControl.fits(extra, latent)

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw latents of the control image, then begin with the image."""
        channels = _draw_channels(self.control_image, context)
        return replace(ImageToImage.begin(self, context), channels=channels)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ControlInpainting(Inpainting):
    """diffusers: `FluxControlInpaintPipeline`. The kept part is put back after every step.

    Attributes:
        control_image: As `ChannelControl.control_image`.
    """

    name: ClassVar[str] = "control_inpainting"
    label: ClassVar[str] = "inpainting with a control image"
    required_args: ClassVar[tuple[str, ...]] = ("image", "mask_image", "control_image")
    named_only: ClassVar[bool] = True
    draws_kept: ClassVar[bool] = False

    control_image: ImageInput

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:
        """See `Task.fits`: the latents of an image."""
        return ChannelControl.fits(extra, latent)

    def check(self, inputs: CommonInputs, family: Family) -> None:
        """See `Task.check`."""
        if self.padding_mask_crop is not None:
            raise InputError(f"padding_mask_crop: {self.label} has none; leave it out")
        Inpainting.check(self, inputs, family)

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw latents of the kept part, of the control image, of the image, and noise, in this order as diffusers."""
        pixels, _ = self._read(context, None)
        context.vae.draw(pixels, generators_of(context, len(pixels)))  # of the kept part, which is unused
        channels = _draw_channels(self.control_image, context)
        return replace(Inpainting.begin(self, replace(context, extra_channels=0)), channels=channels)


def _draw_channels(control_image: ImageInput, context: TaskContext) -> FloatArray:
    """Return the latents of control images, float32 (copies * B, C, h, w); rows of one prompt follow each other."""
    image_size(control_image, "control_image")
    pixels = read_image(control_image, *context.size)
    fill_batch(pixels, context.images, "control_image")  # refuses a number that does not fit
    pixels = np.repeat(pixels, context.images // len(pixels), axis=0)
    rows = context.vae.normalize(context.vae.sample(pixels, context.generator))
    return np.concatenate([rows] * context.copies)
