"""Inpainting: a part of an image is generated again, the rest is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import Box, MaskInput, crop_region, overlay, preprocess_mask, resize_and_fill
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.pipelines.latents import LatentCodec
from diffoundry.runtime.pipelines.request import Request, check_fraction
from diffoundry.runtime.pipelines.tasks.base import FloatArray, Stage, Start, Task
from diffoundry.runtime.pipelines.tasks.schedule import check_strength, start_timesteps
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Inpainting"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inpainting(Task):
    """diffusers: `StableDiffusionInpaintPipeline`, `StableDiffusionXLInpaintPipeline`.

    A UNet of nine channels is told of the mask and of what is kept; with one of four, what is kept is put back, with
    the noise of the time, after every step.

    Attributes:
        image: The image, or several.
        mask_image: Of the image's size: white is generated again, black is kept.
        strength: How much of the noise the image begins with, above 0 to 1; 1 begins with noise alone.
        denoising_start: As `ImageToImage.denoising_start`.
        padding_mask_crop: Only the part of the image that the mask covers is generated, in the full size, with so many
            pixels around it; then it is put into the image. None generates the whole image.
        masked_image_latents: float32 (1 or B, C, h, w) in the denoiser's scale, in place of encoding what is kept, for
            a UNet of nine channels.
    """

    name: ClassVar[str] = "inpainting"
    label: ClassVar[str] = "inpainting"
    needs: ClassVar[tuple[str, ...]] = ("image", "mask_image")
    from_image: ClassVar[bool] = True

    image: ImageInput
    mask_image: MaskInput
    strength: float = 1.0
    denoising_start: float | None = None
    padding_mask_crop: int | None = None
    masked_image_latents: FloatArray | None = None

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:
        """See `Task.fits`: nothing more, or a mask and the latents of what is kept."""
        return extra in (0, latent + 1)

    def check(self, request: Request) -> None:
        """See `Task.check`."""
        check_strength(self.strength)
        check_fraction("denoising_start", self.denoising_start)
        if self.denoising_start is not None and request.latents is not None:
            raise InputError("latents: got them with denoising_start, expected one of the two")
        if self.padding_mask_crop is not None:
            self._check_crop(request)

    def _check_crop(self, request: Request) -> None:
        if not isinstance(self.padding_mask_crop, int) or self.padding_mask_crop < 0:
            raise InputError(
                f"padding_mask_crop: got {self.padding_mask_crop!r}, expected a whole number of at least 0"
            )
        for name, value in (("image", self.image), ("mask_image", self.mask_image)):
            if not hasattr(value, "crop"):
                raise InputError(
                    f"{name}: got {type(value).__name__} with padding_mask_crop, expected a single PIL image"
                )
        if request.output_type != "pil":
            raise InputError(
                f"output_type: got {request.output_type!r} with padding_mask_crop, expected 'pil': the part is put "
                f"into the image"
            )

    def size(self, request: Request, default: tuple[int, int], codec: LatentCodec) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: the checkpoint's own, unless the caller says what the image is resized to."""
        height, width = image_size(self.image)
        mask_height, mask_width = _mask_size(self.mask_image)
        if (mask_height, mask_width) != (height, width):
            raise InputError(
                f"mask_image: got {mask_width} x {mask_height} pixels, expected the image's {width} x {height}"
            )
        resolved = request.height or default[0], request.width or default[1]
        asked = request.height is not None or request.width is not None or self.padding_mask_crop is not None
        if not asked and resolved != (height, width):
            raise InputError(
                f"image: got {width} x {height} pixels, expected {resolved[1]} x {resolved[0]}, the size that is "
                f"generated; resize it, or pass height and width, to which it is resized"
            )
        return resolved

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """See `Task.canvas`: the image's own where only a part of it is generated."""
        return (height, width) if self.padding_mask_crop is None else image_size(self.image)

    def begin(self, stage: Stage) -> Start:
        """Draw latents of the image, noise, and latents of what is kept; diffusers: `prepare_latents`."""
        timesteps = start_timesteps(stage.scheduler, stage.steps, self.strength, self.denoising_start)
        box = self._box(stage)
        pixels, mask = self._read(stage, box)
        image = None
        if self._begins_with_image(stage.request) or not stage.extra_channels:
            image = _encode(stage, pixels)
        noise = stage.noise()
        latents = self._first_latents(stage, image, noise, timesteps)
        kept = pixels * (mask < 0.5)
        factor = stage.codec.factor
        small = fill_batch(mask[:, :, ::factor, ::factor], stage.images, "mask_image")
        finish = None if box is None else partial(self._put_back, box)
        part = None if box is None else partial(_cut_out, box, stage.width, stage.height)
        if stage.extra_channels:
            rows = np.concatenate([small, self._kept_latents(stage, kept)], axis=1)
            channels = np.concatenate([rows] * stage.copies)
            return Start(latents=latents, timesteps=timesteps, channels=channels, part=part, finish=finish)
        if self.masked_image_latents is not None:
            raise InputError(
                "masked_image_latents: got them for a UNet of four channels, which is not told of what is kept; leave "
                "them out"
            )
        stage.codec.draw(kept, _generators(stage, len(kept)))  # unused, but diffusers draws it before the loop
        assert image is not None
        after_step = partial(_keep, stage, image, noise, small)
        return Start(latents=latents, timesteps=timesteps, after_step=after_step, part=part, finish=finish)

    def _begins_with_image(self, request: Request) -> bool:
        return self.denoising_start is not None or (self.strength < 1 and request.latents is None)

    def _first_latents(self, stage: Stage, image: FloatArray | None, noise: FloatArray, timesteps: Any) -> FloatArray:
        """Noise alone, the image with the noise of the first timestep, or the image that has it already."""
        if image is None or not self._begins_with_image(stage.request):
            return noise * float(stage.scheduler.init_noise_sigma)
        return image if self.denoising_start is not None else stage.add_noise(image, noise, timesteps[0])

    def _kept_latents(self, stage: Stage, kept: FloatArray) -> FloatArray:
        """Latents of what is kept, a row an image: the caller's, or encoded."""
        given = self.masked_image_latents
        if given is None:
            return _encode(stage, kept)
        if not isinstance(given, np.ndarray) or given.ndim != 4 or given.shape[1:] != stage.shape[1:]:
            found = f"shape {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
            expected = ", ".join(map(str, stage.shape[1:]))
            raise InputError(f"masked_image_latents: got {found}, expected floats (1 or more, {expected})")
        return fill_batch(given.astype(np.float32), stage.images, "masked_image_latents")

    def _box(self, stage: Stage) -> Box | None:
        if self.padding_mask_crop is None:
            return None
        mask: Any = self.mask_image
        return crop_region(mask, stage.width, stage.height, self.padding_mask_crop)

    def _read(self, stage: Stage, box: Box | None) -> tuple[FloatArray, FloatArray]:
        """Pixels (n, 3, H, W) in -1..1 and masks (m, 1, H, W) in the size that is generated."""
        image: Any = self.image
        mask: Any = self.mask_image
        if box is not None:
            image, mask = (_cut_out(box, stage.width, stage.height, one) for one in (image, mask))
        pixels = read_image(image, stage.height, stage.width)
        masks = preprocess_mask(mask, stage.height, stage.width)
        if len(masks) not in (1, len(pixels)) and len(pixels) != 1:
            raise InputError(f"mask_image: got {len(masks)} for {len(pixels)} images, expected one, or one for each")
        fill_batch(pixels, stage.images)  # says so when their number does not fit
        return pixels, masks

    def _put_back(self, box: Box, generated: "list[Image]") -> "list[Image]":
        original: Any = self.image
        mask: Any = self.mask_image
        return [overlay(image, original, mask, box) for image in generated]


def _cut_out(box: Box, width: int, height: int, image: "Image") -> "Image":
    return resize_and_fill(image.crop(box), width, height)


def _mask_size(mask: MaskInput) -> tuple[int, int]:
    items: list[Any] = list(mask) if isinstance(mask, Sequence) else [mask]
    if items and all(isinstance(item, np.ndarray) and item.ndim >= 2 for item in items):
        height, width = items[0].shape[-2:]
        return height, width
    return image_size(mask, "mask_image")


def _encode(stage: Stage, pixels: FloatArray) -> FloatArray:
    """Latents of images, in the denoiser's scale; without its mean and deviation, as in diffusers."""
    drawn = stage.codec.sample(pixels, _generators(stage, len(pixels)))
    return fill_batch(stage.codec.scaling_factor * drawn, stage.images)


def _generators(stage: Stage, count: int) -> Any:
    """The generators of so many images: one for all, or the first of those that there are."""
    generator = stage.generator
    return generator[:count] if isinstance(generator, Sequence) else generator


def _keep(
    stage: Stage, image: FloatArray, noise: FloatArray, mask: FloatArray, following: Any, latents: FloatArray
) -> FloatArray:
    """Put back what is kept, with the noise of the timestep that follows; none after the last."""
    clean = image if following is None else stage.add_noise(image, noise, following)
    return (1 - mask) * clean + mask * latents
