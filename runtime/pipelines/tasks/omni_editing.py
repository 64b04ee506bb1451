"""Omni editing: generates from a prompt and from images that the denoiser sees by their latents and features."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.area import MAX_AREA, crop_middle, limit_area
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.z_image_transformer_2d import PATCH
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, TaskContext
from diffoundry.runtime.pipelines.tasks.editing import Editing
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.pipelines.tasks.source_images import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["OmniEditing", "token_size"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OmniEditing(Editing):
    """diffusers: `ZImageOmniPipeline`.

    Attributes:
        image: PIL images of any sizes, all of which are seen in every result; None generates from the prompt alone. One
            of more than 1024 x 1024 pixels is made smaller: to the area of the result where the call names height and
            width. The VAE reads its middle of whole tokens.
    """

    name: ClassVar[str] = "omni_editing"

    image: "Image | Any | None" = None

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:
        """See `Task.size`: that of the last image unless the call names one.

        Raises:
            InputError: An image is too narrow for the area of the result.
        """
        images = self.seen(inputs)
        sizes = [token_size(image, vae.scale_factor * PATCH) for image in images]
        own = sizes[-1] if sizes else default
        return inputs.height or own[0], inputs.width or own[1]

    def seen(self, inputs: CommonInputs) -> list[Any]:
        """Return the images as the image encoder sees them."""
        height, width = inputs.height, inputs.width
        area = MAX_AREA if height is None or width is None else height * width
        return [limit_area(image, area) for image in self.images()]

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw noise, and encode the likeliest latents of each image; diffusers: `prepare_image_latents`."""
        latents, vae = context.noise() * context.noise_scale, context.vae
        multiple, images = vae.scale_factor * PATCH, self.seen(context.inputs)
        encoded = []
        for image in images:
            height, width = token_size(image, multiple)
            pixels = read_image(crop_middle(image, height, width), height, width)
            encoded.append(vae.normalize(vae.mode(pixels)))
        denoiser: Any = context.family.denoiser
        return LoopInit(
            latents=latents,
            timesteps=start_at_index(context.scheduler, context.begin_index or 0),
            feeds=denoiser.reference_feeds(encoded, context.images * context.copies),
        )


def token_size(image: "Image", multiple: int) -> tuple[int, int]:
    """Return height and width in pixels of the middle of an image that the VAE reads, whole tokens.

    Raises:
        InputError: It has none.
    """
    height, width = image.height // multiple * multiple, image.width // multiple * multiple
    if not height or not width:
        raise InputError(
            f"image: got {image.width} x {image.height} pixels after it was made as small as the result, expected at "
            f"least {multiple} to a side; crop it, or generate a larger image"
        )
    return height, width
