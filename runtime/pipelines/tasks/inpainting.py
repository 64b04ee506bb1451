"""Inpainting: generates a part of an image again and keeps the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_fraction
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import (
    Box,
    MaskInput,
    crop_region,
    mask_arrays,
    overlay,
    preprocess_mask,
    resize_and_fill,
)
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.schedule import add_noise, check_strength, start_timesteps
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, read_image
from diffoundry.runtime.random import randn_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Inpainting", "cut_out", "generators_of", "mask_size", "restore_kept"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inpainting(Task):
    """diffusers: `StableDiffusionInpaintPipeline`, and the `Inpaint` pipelines of XL and 3.

    A denoiser for inpainting, of nine channels over latents of four, takes the mask and the kept part as inputs. With
    any other, the kept part is put back after every step, with the noise of that step.

    Attributes:
        image: The image, or several.
        mask_image: Mask of the image's size: white is generated again, black is kept.
        strength: Fraction of the schedule that is run, above 0 to 1; 1 starts from noise alone.
        denoising_start: As `ImageToImage.denoising_start`.
        padding_mask_crop: Pixels around the mask. Only this region is generated, in the full size, and then put into
            the image. None generates the whole image.
        draws_kept: True if the kept part draws random numbers after the noise.
        draws_image: True if the image draws random numbers also where the latents start from noise alone.
        masked_image_latents: float32 (1 or B, C, h, w), instead of encoding the kept part, for a denoiser made for
            inpainting; in its scale, or of flow matching models in the VAE's own scale, as in diffusers.
    """

    name: ClassVar[str] = "inpainting"
    label: ClassVar[str] = "inpainting"
    required_args: ClassVar[tuple[str, ...]] = ("image", "mask_image")
    from_image: ClassVar[bool] = True
    draws_kept: ClassVar[bool] = True
    draws_image: ClassVar[bool] = False

    image: ImageInput
    mask_image: MaskInput
    strength: float = 1.0
    denoising_start: float | None = None
    padding_mask_crop: int | None = None
    masked_image_latents: FloatArray | None = None

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:
        """See `Task.fits`: no more channels, or a mask and the latents of the kept part."""
        return extra in (0, latent + 1)

    def check(self, inputs: CommonInputs, family: Family) -> None:  # noqa: ARG002
        """See `Task.check`."""
        check_strength(self.strength)
        check_fraction("denoising_start", self.denoising_start)
        if self.denoising_start is not None and inputs.latents is not None:
            raise InputError("latents and denoising_start: got both, expected one of them")
        if self.padding_mask_crop is not None:
            self._check_crop(inputs)

    def _check_crop(self, inputs: CommonInputs) -> None:
        if not isinstance(self.padding_mask_crop, int) or self.padding_mask_crop < 0:
            raise InputError(
                f"padding_mask_crop: got {self.padding_mask_crop!r}, expected a whole number of at least 0"
            )
        for name, value in (("image", self.image), ("mask_image", self.mask_image)):
            if not hasattr(value, "crop"):
                raise InputError(
                    f"{name}: got {type(value).__name__} with padding_mask_crop, expected a single PIL image"
                )
        if inputs.output_type != "pil":
            raise InputError(
                f"output_type: got {inputs.output_type!r} with padding_mask_crop, expected 'pil': the region is put "
                f"into the image"
            )

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: the checkpoint's own, unless the call names the size to resize the image to."""
        height, width = image_size(self.image)
        mask_height, mask_width = mask_size(self.mask_image)
        if (mask_height, mask_width) != (height, width):
            raise InputError(
                f"mask_image: got {mask_width} x {mask_height} pixels, expected the image's {width} x {height}"
            )
        resolved = inputs.height or default[0], inputs.width or default[1]
        asked = inputs.height is not None or inputs.width is not None or self.padding_mask_crop is not None
        if not asked and resolved != (height, width):
            raise InputError(
                f"image: got {width} x {height} pixels, expected {resolved[1]} x {resolved[0]}, the size that is "
                f"generated; resize it, or pass height and width, to which it is resized"
            )
        return resolved

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """See `Task.canvas`: the image's own where only a part of it is generated."""
        return (height, width) if self.padding_mask_crop is None else image_size(self.image)

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw latents of the image, noise, and latents of the kept part; diffusers: `prepare_latents`."""
        flow = not context.family.scales_latents
        timesteps = start_timesteps(context.scheduler, context.steps, self.strength, self.denoising_start, flow=flow)
        box = self._box(context)
        pixels, mask = self._read(context, box)
        keeps_own = context.family.keeps_own_noise and context.inputs.latents is not None
        own = randn_tensor(context.shape, context.generator).astype(np.float32) if keeps_own else None
        image = None
        if self._begins_with_image(context.inputs) or not context.extra_channels:
            image = _encode(context, pixels)
        elif self.draws_image and context.inputs.latents is None:
            context.vae.draw(pixels, generators_of(context, len(pixels)))
        noise = context.noise()
        latents = self._first_latents(context, image, noise, timesteps)
        kept = pixels * (mask < 0.5)
        small = fill_batch(self._shrink(mask, context.vae.scale_factor), context.images, "mask_image")
        finish = None if box is None else partial(self._put_back, box)
        crop = None if box is None else partial(cut_out, box, context.size)
        if context.extra_channels:
            rows = self._join(small, self._kept_latents(context, kept))
            channels = np.concatenate([rows] * context.copies)
            return LoopInit(latents=latents, timesteps=timesteps, channels=channels, crop=crop, finish=finish)
        if self.masked_image_latents is not None:
            raise InputError(
                "masked_image_latents: this checkpoint's denoiser does not take them, only one made for inpainting "
                "does; leave them out"
            )
        if self.draws_kept:
            context.vae.draw(kept, generators_of(context, len(kept)))  # unused, but diffusers draws it before the loop
        assert image is not None
        after_step = partial(restore_kept, context, image, noise if own is None else own, small)
        feeds = self._feeds(context, image)
        return LoopInit(
            latents=latents, timesteps=timesteps, after_step=after_step, crop=crop, finish=finish, feeds=feeds
        )

    def _feeds(self, context: TaskContext, image: FloatArray) -> Feeds:  # noqa: ARG002
        """Return further inputs of a denoiser without further channels; by default none.

        Args:
            context: Of the call.
            image: Latents of the image, a row a result.
        """
        return {}

    def _source(self) -> ImageInput:
        """Return the image that is read: the caller's."""
        return self.image

    def _shrink(self, mask: FloatArray, factor: int) -> FloatArray:
        """Return a mask (n, 1, H, W) in the size of the latents: the corner of each cell of pixels."""
        return mask[:, :, ::factor, ::factor]

    def _join(self, mask: FloatArray, kept: FloatArray) -> FloatArray:
        """Return the further channels of the denoiser: the mask, and the latents of the kept part."""
        return np.concatenate([mask, kept], axis=1)

    def _begins_with_image(self, inputs: CommonInputs) -> bool:
        return self.denoising_start is not None or (self.strength < 1 and inputs.latents is None)

    def _first_latents(
        self, context: TaskContext, image: FloatArray | None, noise: FloatArray, timesteps: Any
    ) -> FloatArray:
        """Return noise alone, the image with the noise of the first timestep, or the image that has it already."""
        if image is None or not self._begins_with_image(context.inputs):
            return noise * context.noise_scale
        return image if self.denoising_start is not None else add_noise(context.scheduler, image, noise, timesteps[0])

    def _kept_latents(self, context: TaskContext, kept: FloatArray) -> FloatArray:
        """Return the latents of the kept part, a row an image: the caller's, or encoded."""
        given: Any = self.masked_image_latents
        if given is None:
            return _encode(context, kept)
        given = to_array(given) if is_tensor(given) else given
        if not isinstance(given, np.ndarray) or given.ndim != 4 or given.shape[1:] != context.shape[1:]:
            found = f"shape {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
            expected = ", ".join(map(str, context.shape[1:]))
            raise InputError(f"masked_image_latents: got {found}, expected floats (1 or more, {expected})")
        given = given.astype(np.float32)
        if not context.family.scales_latents:
            given = _scaled(context.vae, given)
        return fill_batch(given, context.images, "masked_image_latents")

    def _box(self, context: TaskContext) -> Box | None:
        if self.padding_mask_crop is None:
            return None
        mask: Any = self.mask_image
        height, width = context.size
        return crop_region(mask, width, height, self.padding_mask_crop)

    def _read(self, context: TaskContext, box: Box | None) -> tuple[FloatArray, FloatArray]:
        """Return pixels (n, 3, H, W) in -1..1 and masks (m, 1, H, W) in the generated size."""
        image: Any = self._source()
        mask: Any = self.mask_image
        if box is not None:
            image, mask = (cut_out(box, context.size, one) for one in (image, mask))
        pixels = read_image(image, *context.size)
        masks = read_masks(mask, context.size, len(pixels))
        fill_batch(pixels, context.images)  # refuses a number that does not fit
        return pixels, masks

    def _put_back(self, box: Box, generated: "list[Image]") -> "list[Image]":
        original: Any = self._source()
        mask: Any = self.mask_image
        return [overlay(image, original, mask, box) for image in generated]


def cut_out(box: Box, size: tuple[int, int], image: "Image") -> "Image":
    """Crop an image to a box and resize it into a size (height, width)."""
    height, width = size
    return resize_and_fill(image.crop(box), width, height)


def read_masks(mask: MaskInput, size: tuple[int, int], images: int) -> FloatArray:
    """Return masks (m, 1, H, W) of a size (height, width).

    Raises:
        InputError: Their number does not fit that of the images.
    """
    masks = preprocess_mask(mask, *size)
    if len(masks) not in (1, images) and images != 1:
        raise InputError(f"mask_image: got {len(masks)} for {images} images, expected one, or one for each")
    return masks


def mask_size(mask: MaskInput) -> tuple[int, int]:
    """Return height and width of masks in pixels."""
    arrays = mask_arrays(mask)
    return image_size(mask, "mask_image") if arrays is None else (arrays.shape[1], arrays.shape[2])


def _encode(context: TaskContext, pixels: FloatArray) -> FloatArray:
    """Return latents of images in the scheduler's scale."""
    drawn = context.vae.sample(pixels, generators_of(context, len(pixels)))
    return fill_batch(_scaled(context.vae, drawn), context.images)


def _scaled(vae: AutoencoderKL, latents: FloatArray) -> FloatArray:
    """Convert latents to the scheduler's scale, without `latents_mean` and `latents_std`, as in diffusers."""
    return vae.normalize(latents, statistics=False)


def generators_of(context: TaskContext, count: int) -> Any:
    """Return the generators of `count` images: one for all, or the first of the list."""
    generator = context.generator
    return generator[:count] if isinstance(generator, Sequence) else generator


def restore_kept(
    context: TaskContext, image: FloatArray, noise: FloatArray, mask: FloatArray, following: Any, latents: FloatArray
) -> FloatArray:
    """Put the kept part back, with the noise of the timestep that follows; without noise after the last."""
    clean = image if following is None else add_noise(context.scheduler, image, noise, following)
    return (1 - mask) * clean + mask * latents
