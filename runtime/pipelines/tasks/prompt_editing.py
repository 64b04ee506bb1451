"""Editing by a prompt: the denoiser sees images as further tokens, and the language model sees them too."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.image_size import check_size
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.flux_transformer_2d import PATCH
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PromptEditing", "SeveralImageEditing", "area_size"]

_SIDE = 1024
_AREA = _SIDE**2
"""Pixels of an image that the denoiser sees."""

_SEEN_AREA = 384 * 384
"""Pixels of an image that the language model sees, where it sees several. diffusers: `CONDITION_IMAGE_SIZE`."""

_STEP = 32


def area_size(area: int, image: "Image") -> tuple[int, int]:
    """Return height and width with the ratio of an image, of about an area. diffusers: `calculate_dimensions`.

    Raises:
        InputError: The image is too narrow for it.
    """
    ratio = image.width / image.height
    width = math.sqrt(area * ratio)
    size = round(width / ratio / _STEP) * _STEP, round(width / _STEP) * _STEP
    if not all(size):
        raise InputError(
            f"image: got {image.width} x {image.height} pixels, expected sides that have at least {_STEP} pixels where "
            f"the image has about {area:.0f}; crop it"
        )
    return size


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptEditing(Task):
    """diffusers: `QwenImageEditPipeline`.

    Attributes:
        image: PIL image to edit: one for all prompts, or one for each, of one size.
    """

    name: ClassVar[str] = "prompt_editing"
    label: ClassVar[str] = "editing an image"
    own_size: ClassVar[tuple[int, int] | None] = (_SIDE, _SIDE)
    required_args: ClassVar[tuple[str, ...]] = ("image",)
    from_image: ClassVar[bool] = True
    named_only: ClassVar[bool] = True
    last: ClassVar[bool] = False

    image: "Image | Sequence[Image]"

    def check(self, inputs: CommonInputs, family: Family) -> None:  # noqa: ARG002
        """See `Task.check`."""
        if not self.images():
            raise InputError("image: got an empty list, expected at least one image")
        for image in self.images():
            if not hasattr(image, "getbands"):
                raise InputError(f"image: got {type(image).__name__}, expected a PIL image, or a list of PIL images")
            image_size(image)

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: about 1024 x 1024 pixels in the ratio of the image, or those of the call; whole tokens.

        Raises:
            InputError: The bundle has no engines for the size in which an image is seen.
        """
        self._check_seen(vae)
        own, multiple = area_size(_AREA, self.images()[-1 if self.last else 0]), vae.scale_factor * PATCH
        height, width = (
            (asked or side) // multiple * multiple
            for asked, side in zip((inputs.height, inputs.width), own, strict=True)
        )
        return height, width

    def _check_seen(self, vae: AutoencoderKL) -> None:
        for height, width in self.seen_sizes():
            try:
                check_size((height, width), vae.scale_factor, PATCH, vae.recipe)
            except InputError as error:
                raise InputError(
                    f"image: it is seen with {width}x{height} pixels, whatever is generated, which this bundle cannot "
                    f"({error}); export it without --buckets, --height and --width"
                ) from error

    def seen_sizes(self) -> list[tuple[int, int]]:
        """Return height and width of each image as the denoiser sees it."""
        return [self._sides()]

    def begin(self, context: TaskContext) -> LoopInit:
        """Encode the likeliest latents of the images, and draw noise; diffusers: `prepare_latents`."""
        vae = context.vae
        denoiser: Any = context.family.denoiser
        latents = [fill_batch(vae.normalize(vae.mode(pixels)), context.images) for pixels in self.pixels()]
        feeds = denoiser.reference_feeds(latents, context.images, context.copies)
        timesteps = start_at_index(context.scheduler, context.begin_index or 0)
        return LoopInit(latents=context.noise() * context.noise_scale, timesteps=timesteps, feeds=feeds)

    def images(self) -> list[Any]:
        """Return the images of the call."""
        image: Any = self.image
        return list(image) if isinstance(image, Sequence) else [image]

    def pixels(self) -> list[FloatArray]:
        """Return the pixels in -1..1 of each image that the denoiser sees, (1 or prompts, 3, H, W)."""
        return [np.concatenate([read_image(image, *self._sides()) for image in self.resized()])]

    def shown(self, count: int) -> list[list[Any]]:
        """Return the images that the language model sees with each of `count` prompts.

        Raises:
            InputError: There are neither one nor as many.
        """
        images = self.resized()
        if len(images) not in (1, count):
            raise InputError(f"image: got {len(images)} for {count} prompts, expected one, or one for each")
        return [[image] for image in (images if len(images) == count else images * count)]

    def _sides(self) -> tuple[int, int]:
        return area_size(_AREA, self.images()[0])

    def resized(self) -> list[Any]:
        """Return what is shown: an image alone in the size of the result, those of a list as they are.

        So does diffusers, whose function for sizes passes lists on.
        """
        if isinstance(self.image, Sequence):
            return self.images()
        return [_resize(image, *self._sides()) for image in self.images()]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeveralImageEditing(PromptEditing):
    """diffusers: `QwenImageEditPlusPipeline`.

    Attributes:
        image: PIL images of any sizes, all of which are seen in every result.
    """

    name: ClassVar[str] = "several_image_editing"
    label: ClassVar[str] = "editing images"
    last: ClassVar[bool] = True

    image: "Image | Sequence[Image]"

    def seen_sizes(self) -> list[tuple[int, int]]:
        """See `PromptEditing`."""
        return [area_size(_AREA, image) for image in self.images()]

    def pixels(self) -> list[FloatArray]:
        """See `PromptEditing`."""
        return [read_image(image, *size) for image, size in zip(self.images(), self.seen_sizes(), strict=True)]

    def shown(self, count: int) -> list[list[Any]]:
        """See `PromptEditing`."""
        return [[_resize(image, *area_size(_SEEN_AREA, image)) for image in self.images()]] * count


def _resize(image: "Image", height: int, width: int) -> "Image":
    from PIL.Image import Resampling

    return image.resize((width, height), Resampling.LANCZOS)
