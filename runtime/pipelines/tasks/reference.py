"""Reference: edits an image that the denoiser sees beside the latents, or generates one without it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.flux_transformer_2d import PATCH, REFERENCE
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, latents_of, read_image

__all__ = ["Reference", "encode_reference", "reference_size"]

_PREFERRED = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104),
    (1024, 1024), (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688),
    (1568, 672),
)  # fmt: skip
"""Width and height of the images of the training. diffusers: `PREFERRED_KONTEXT_RESOLUTIONS`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference(Task):
    """diffusers: `FluxKontextPipeline`.

    Black Forest Labs 2025, FLUX.1 Kontext, https://arxiv.org/abs/2506.15742.

    Attributes:
        image: The image to edit: one for all, or several; or latents (B, C, h, w) in the denoiser's scale. None
            generates from the prompt alone.
        max_area: Pixels of the result: height and width only decide their ratio.
        _auto_resize: True resizes the image to the size of the training with the closest ratio, False keeps its own.
    """

    name: ClassVar[str] = "reference"
    label: ClassVar[str] = "editing an image"
    from_image: ClassVar[bool] = True
    named_only: ClassVar[bool] = True

    image: "ImageInput | None" = None
    max_area: int = 1024**2
    _auto_resize: bool = True

    def check(self, inputs: CommonInputs, family: Family) -> None:  # noqa: ARG002
        """See `Task.check`."""
        check_number("max_area", self.max_area, 1, whole=True)

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:
        """See `Task.size`: of `max_area` pixels, rounded down to whole tokens."""
        height, width = inputs.height or default[0], inputs.width or default[1]
        ratio, multiple = width / height, vae.scale_factor * PATCH
        sides = round((self.max_area / ratio) ** 0.5), round((self.max_area * ratio) ** 0.5)
        height, width = (side // multiple * multiple for side in sides)
        return height, width

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw noise, and encode the likeliest latents of the image; diffusers: `prepare_latents`."""
        feeds = {}
        if self.image is not None:
            latents = encode_reference(context.vae, self.image, resize=self._auto_resize)
            rows = fill_batch(latents, context.images)
            feeds[REFERENCE] = np.concatenate([rows] * context.copies)
        timesteps = start_at_index(context.scheduler, context.begin_index or 0)
        return LoopInit(latents=context.noise() * context.noise_scale, timesteps=timesteps, feeds=feeds)


def reference_size(vae: AutoencoderKL, image: ImageInput, *, resize: bool, name: str = "image") -> tuple[int, int]:
    """Return height and width in pixels of an image for the denoiser, whole tokens.

    Args:
        vae: Of the latents.
        image: The image.
        resize: True for the size of the training with the closest ratio, False for its own.
        name: Of the argument, for messages.
    """
    multiple = vae.scale_factor * PATCH
    height, width = (side // multiple * multiple for side in image_size(image, name))
    if resize:
        _, width, height = min((abs(width / height - w / h), w, h) for w, h in _PREFERRED)
    return height // multiple * multiple, width // multiple * multiple


def encode_reference(vae: AutoencoderKL, image: ImageInput, *, resize: bool, name: str = "image") -> FloatArray:
    """Return latents of an image in the denoiser's scale; arguments as `reference_size`. Latents stay as they are."""
    latents = latents_of(image, vae.latent_channels)
    if latents is not None:
        return latents
    return vae.normalize(vae.mode(read_image(image, *reference_size(vae, image, resize=resize, name=name))))
