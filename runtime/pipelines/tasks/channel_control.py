"""Control by an image whose latents are further channels of the denoiser."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, read_image

__all__ = ["ChannelControl"]


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
        rows = context.vae.normalize(context.vae.sample(self._pixels(context), context.generator))
        return LoopInit(
            latents=context.noise() * context.noise_scale,
            timesteps=start_at_index(context.scheduler, context.begin_index or 0),
            channels=np.concatenate([rows] * context.copies),
        )

    def _pixels(self, context: TaskContext) -> FloatArray:
        """Return pixels in -1..1, a row for each result; rows of one prompt follow each other."""
        image_size(self.control_image, "control_image")
        pixels = read_image(self.control_image, *context.size)
        fill_batch(pixels, context.images, "control_image")  # refuses a number that does not fit
        return np.repeat(pixels, context.images // len(pixels), axis=0)
