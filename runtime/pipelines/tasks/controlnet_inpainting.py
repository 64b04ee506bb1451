"""Inpainting by a ControlNet that sees the mask and the kept part, with a denoiser that knows nothing of them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput, preprocess_mask
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext, TextToImage
from diffoundry.runtime.pipelines.tasks.inpainting import mask_size
from diffoundry.runtime.pipelines.tasks.source_images import image_size, read_image

__all__ = ["ControlNetInit", "ControlNetInpainting"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ControlNetInit(LoopInit):
    """The start of a loop whose ControlNet sees more than its image.

    Attributes:
        kept_part: float32 (B, C', h, w), joined to the latents of the control image.
    """

    kept_part: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ControlNetInpainting(Task):
    """diffusers: `ZImageControlNetInpaintPipeline`. The loop starts from noise, and nothing is put back into it.

    Attributes:
        image: The image, or several.
        mask_image: Mask of the image's size: white is generated again, black is kept.
    """

    name: ClassVar[str] = "controlnet_inpainting"
    label: ClassVar[str] = "inpainting with a ControlNet"
    required_args: ClassVar[tuple[str, ...]] = ("control_image", "image", "mask_image")
    from_image: ClassVar[bool] = True
    named_only: ClassVar[bool] = True

    image: ImageInput
    mask_image: MaskInput

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:
        """See `Task.size`: that of the call or of the control image, which the image has too."""
        size, mask = image_size(self.image), mask_size(self.mask_image)
        if mask != size:
            expected = f"the image's {size[1]} x {size[0]}"
            raise InputError(f"mask_image: got {mask[1]} x {mask[0]} pixels, expected {expected}")
        resolved = Task.size(self, inputs, default, vae)
        if size != resolved:
            raise InputError(
                f"image: got {size[1]} x {size[0]} pixels, expected {resolved[1]} x {resolved[0]}, the size that is "
                f"generated; resize it"
            )
        return resolved

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw noise, and encode the kept part; diffusers: `ZImageControlNetInpaintPipeline.__call__`."""
        plain = TextToImage().begin(context)
        return ControlNetInit(latents=plain.latents, timesteps=plain.timesteps, kept_part=self._kept_part(context))

    def _kept_part(self, context: TaskContext) -> FloatArray:
        """Return a mask of the size of latents, 1 where the image is kept, and the latents of what is kept."""
        vae, masks = context.vae, preprocess_mask(self.mask_image, *context.size)
        pixels = read_image(self.image, *context.size)
        if len(masks) not in (1, len(pixels)) and len(pixels) != 1:
            raise InputError(f"mask_image: got {len(masks)} for {len(pixels)} images, expected one, or one for each")
        kept = vae.normalize(vae.mode(pixels * (masks < 0.5)))
        small = 1 - masks[:, :, :: vae.scale_factor, :: vae.scale_factor]
        return np.concatenate([_spread(small, context, "mask_image"), _spread(kept, context, "image")], axis=1)


def _spread(rows: FloatArray, context: TaskContext, name: str) -> FloatArray:
    """Repeat one row for all images, or the row of each prompt for its images: a, a, b, b."""
    times = context.images if len(rows) == 1 else context.inputs.num_images_per_prompt
    if len(rows) * times != context.images:
        prompts = context.images // context.inputs.num_images_per_prompt
        raise InputError(f"{name}: got {len(rows)} for {prompts} prompts, expected one, or one for each prompt")
    return np.repeat(rows, times, axis=0)
