"""Inpainting by a denoiser that also sees the whole image, and further ones, as tokens."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.area import MAX_AREA, crop_middle, limit_area
from diffoundry.runtime.images.mask import Box
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, TaskContext
from diffoundry.runtime.pipelines.tasks.inpainting import Inpainting, cut_out, mask_size, read_masks, restore_kept
from diffoundry.runtime.pipelines.tasks.schedule import add_noise, start_timesteps
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, latents_of, read_image

__all__ = ["ReferenceInpainting"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferenceInpainting(Inpainting):
    """diffusers: `Flux2KleinInpaintPipeline`.

    Attributes:
        image: Instead of an image also latents (B, 4 C, h, w), the VAE's own in tokens of 2 x 2, without normalization.
        image_reference: An image for the inpainted part: one for all results, one for each, or of any other number all
            for every result. Its middle of whole tokens is read. Or latents, as for `image`.
    """

    name: ClassVar[str] = "reference_inpainting"
    named_only: ClassVar[bool] = True

    image_reference: "ImageInput | None" = None

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: the image's own, rounded down to whole tokens."""
        tokens, size = latents_of(self.image, vae.latent_channels), None
        if tokens is not None:
            size = tokens.shape[2] * vae.scale_factor, tokens.shape[3] * vae.scale_factor
        own = size or image_size(self.image)
        if mask_size(self.mask_image) != own:
            found = "{1} x {0}".format(*mask_size(self.mask_image))
            raise InputError("mask_image: got {2} pixels, expected the image's {1} x {0}".format(*own, found))
        size = size or _token_size(_limited(self.image, "image"), vae.scale_factor, "image")
        for name, side in zip(("height", "width"), size, strict=True):
            given = getattr(inputs, name)
            if given not in (None, side):
                raise InputError(f"{name}: got {given}, expected {side}, that of the image; resize the image instead")
        return size

    def begin(self, context: TaskContext) -> LoopInit:
        """Encode the likeliest latents of the images, and add noise to the first; diffusers: `prepare_latents`."""
        vae, images = context.vae, context.images
        timesteps = start_timesteps(context.scheduler, context.steps, self.strength, None, flow=True)
        box = self._box(context)
        encoded, mask = self._encode(context, box)
        image = fill_batch(encoded, images)
        noise = context.noise()
        given = context.inputs.latents is not None
        latents = noise if given else add_noise(context.scheduler, image, noise, timesteps[0])
        small = fill_batch(self._shrink(mask, vae.scale_factor), images, "mask_image")
        denoiser: Any = context.family.denoiser
        return LoopInit(
            latents=latents,
            timesteps=timesteps,
            after_step=partial(restore_kept, context, image, noise, small),
            crop=None if box is None else partial(cut_out, box, context.size),
            finish=None if box is None else partial(self._put_back, box),
            feeds=denoiser.reference_feeds([image, *self._references(vae, images)], images, context.copies),
        )

    def _encode(self, context: TaskContext, box: Box | None) -> tuple[FloatArray, FloatArray]:
        """Return tokens (n, 4 C, h, w) of the image, and masks (m, 1, H, W) in the generated size."""
        vae: Any = context.vae
        given = latents_of(self.image, vae.latent_channels)
        if given is None:
            pixels, masks = self._read(context, box)
            return vae.normalize(vae.mode(pixels)), masks
        return vae.standardize(given), read_masks(self.mask_image, context.size, len(given))

    def _source(self) -> ImageInput:
        """See `Inpainting`: of at most 1024 x 1024 pixels."""
        image: ImageInput = _limited(self.image, "image")
        return image

    def _shrink(self, mask: FloatArray, factor: int) -> FloatArray:
        """Return a mask (n, 1, H, W) in tokens: the mean of the four pixels in the middle of each.

        torch: `interpolate` with "bilinear" and an even factor.
        """
        first, second = factor // 2 - 1, factor // 2
        rows = mask[:, :, first::factor] + mask[:, :, second::factor]
        return np.asarray((rows[..., first::factor] + rows[..., second::factor]) / 4, np.float32)

    def _references(self, vae: Any, images: int) -> list[FloatArray]:
        """Return tokens of the further images, as `reference_feeds` takes them."""
        if self.image_reference is None:
            return []
        given = latents_of(self.image_reference, vae.latent_channels)
        if given is None:
            image: Any = _limited(self.image_reference, "image_reference")
            size = _token_size(image, vae.scale_factor, "image_reference")
            tokens = vae.normalize(vae.mode(_middle(image, size)))
        else:
            tokens = vae.standardize(given)
        return [tokens] if len(tokens) in (1, images) else [tokens[index : index + 1] for index in range(len(tokens))]


def _limited(image: Any, name: str) -> Any:
    """Return a PIL image of limited area, and anything else as it is; diffusers makes no list smaller.

    Raises:
        InputError: An array is too large.
    """
    height, width = image_size(image, name)
    if hasattr(image, "getbands"):
        return limit_area(image)
    if height * width > MAX_AREA and not isinstance(image, list | tuple):
        raise InputError(
            f"{name}: got {width} x {height} pixels, expected at most {MAX_AREA} in all of an array; pass a PIL image, "
            f"which is made smaller"
        )
    return image


def _token_size(image: ImageInput, multiple: int, name: str) -> tuple[int, int]:
    height, width = image_size(image, name)
    if min(height, width) < multiple:
        raise InputError(f"{name}: got {width} x {height} pixels, expected at least {multiple} to a side; enlarge it")
    return height // multiple * multiple, width // multiple * multiple


def _middle(image: Any, size: tuple[int, int]) -> FloatArray:
    """Return pixels (n, 3, H, W) in -1..1: of PIL images the middle, of arrays the whole, resized."""
    items = list(image) if isinstance(image, list | tuple) else [image]
    if all(hasattr(item, "getbands") for item in items):
        return read_image([crop_middle(item, *size) for item in items], *size)
    return read_image(image, *size)
