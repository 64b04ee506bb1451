"""Editing: generates from a prompt and from images that the denoiser sees as further tokens, or without images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.area import crop_middle, limit_area
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.pipelines.tasks.source_images import image_size, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Editing", "check_guidance", "read_reference"]

_LEAST_SIDE, _LARGEST_RATIO = 64, 8
"""Of an image. diffusers: `Flux2ImageProcessor.check_image_input`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Editing(Task):
    """diffusers: `Flux2KleinPipeline`, `Flux2Pipeline`.

    Attributes:
        image: PIL images of any sizes, all of which are seen in every result; None generates from the prompt alone. One
            of more than 1024 x 1024 pixels is made smaller, and its middle of whole tokens is read.
        shows_example: False, so that a measurement generates from the prompt alone. So does a call by default, which
            is why `from_image` is False.
    """

    name: ClassVar[str] = "editing"
    label: ClassVar[str] = "editing images"
    shows_example: ClassVar[bool] = False
    named_only: ClassVar[bool] = True

    image: "Image | Sequence[Image] | None" = None

    def check(self, inputs: CommonInputs, family: Family) -> None:
        """See `Task.check`."""
        check_guidance(inputs, family)
        if self.image is not None and not self.images():
            raise InputError("image: got an empty list, expected at least one image; leave it out to use none")
        for image in self.images():
            _check(image)

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:
        """See `Task.size`: that of the first image unless the call names one."""
        images = self.images()
        own = _read_size(limit_area(images[0]), vae.scale_factor) if images else default
        return inputs.height or own[0], inputs.width or own[1]

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw noise, and encode the likeliest latents of each image; diffusers: `prepare_image_latents`."""
        latents, vae = context.noise() * context.noise_scale, context.vae
        feeds = {}
        if images := self.images():
            tokens = [vae.normalize(vae.mode(read_reference(image, vae.scale_factor))) for image in images]
            denoiser: Any = context.family.denoiser
            feeds = denoiser.reference_feeds(tokens, context.images, context.copies)
        return LoopInit(
            latents=latents, timesteps=start_at_index(context.scheduler, context.begin_index or 0), feeds=feeds
        )

    def images(self) -> list[Any]:
        """Return the images of the call."""
        image: Any = self.image
        if image is None:
            return []
        return list(image) if isinstance(image, Sequence) else [image]


def check_guidance(inputs: CommonInputs, family: Family) -> None:
    """Refuse a guidance scale where diffusers' class takes none.

    Raises:
        InputError: As said.
    """
    if "guidance_scale" in getattr(family, "ignored_args", ()) and inputs.guidance_scale > 1:
        raise InputError(
            f"guidance_scale: got {inputs.guidance_scale:g}, expected none: this checkpoint is not guided by it; leave "
            f"it out"
        )


def _check(image: Any) -> None:
    """Refuse what diffusers refuses.

    Raises:
        InputError: No PIL image, or one that is too small or too narrow.
    """
    if not hasattr(image, "getbands"):
        raise InputError(f"image: got {type(image).__name__}, expected a PIL image, or a list of PIL images")
    height, width = image_size(image)
    if min(height, width) < _LEAST_SIDE:
        raise InputError(f"image: got {width} x {height} pixels, expected at least {_LEAST_SIDE} to a side; enlarge it")
    if max(height, width) > _LARGEST_RATIO * min(height, width):
        raise InputError(
            f"image: got {width} x {height} pixels, expected a long side of at most {_LARGEST_RATIO} short ones; "
            f"crop it"
        )


def _read_size(image: "Image", multiple: int) -> tuple[int, int]:
    return image.height // multiple * multiple, image.width // multiple * multiple


def read_reference(image: "Image", multiple: int) -> FloatArray:
    """Return pixels (1, 3, H, W) in -1..1 of the middle of an image."""
    image = limit_area(image)
    height, width = _read_size(image, multiple)
    return read_image(crop_middle(image, height, width), height, width)
