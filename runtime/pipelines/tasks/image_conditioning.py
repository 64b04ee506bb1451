"""Generates from a prompt, and from images that the language model and the denoiser see, if there are any."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import check_pil
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.editing import check_guidance
from diffoundry.runtime.pipelines.tasks.prompt_editing import area_size
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.pipelines.tasks.source_images import read_transparent

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageConditioning"]

_SIDE = 1024
_LEAST, _MOST = 32, 8192


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageConditioning(Task):
    """diffusers: `QwenImage21Pipeline`.

    Attributes:
        image: PIL images of any sizes, all of which are seen in every result; None generates from the prompt alone. The
            denoiser sees transparency, and the language model sees white instead.
        output_resolution: Side of a square with as many pixels as an image that is seen, and by default as the result.
        shows_example: False, so that a measurement generates from the prompt alone.
    """

    name: ClassVar[str] = "image_conditioning"
    label: ClassVar[str] = "generating from a prompt, and from images if there are any"
    shows_example: ClassVar[bool] = False
    named_only: ClassVar[bool] = True

    image: "Image | Sequence[Image] | None" = None
    output_resolution: int = _SIDE

    def check(self, inputs: CommonInputs, family: Family) -> None:
        """See `Task.check`."""
        check_guidance(inputs, family)
        if self.image is not None and not self._images():
            raise InputError("image: got an empty list, expected at least one image; leave it out to use none")
        check_pil(self._images(), "image")
        check_number("output_resolution", self.output_resolution, _LEAST, _MOST, whole=True)
        own = list(getattr(family, "sample_sigmas", ()))
        if own and inputs.sigmas == own and inputs.timesteps is None and inputs.num_inference_steps != len(own):
            raise InputError(
                f"num_inference_steps: got {inputs.num_inference_steps}, expected {len(own)}: the checkpoint has "
                f"sigmas of its own (sample_sigmas of model_index.json); leave it out, or pass sigmas"
            )

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: by default that of a square, or of the last image as it is seen."""
        images = self._images()
        own = default if self.output_resolution == _SIDE else (self.output_resolution,) * 2
        if images:
            own = self._seen_size(images[-1])
        return inputs.height or own[0], inputs.width or own[1]

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw noise, and encode the likeliest latents of each image; diffusers: `prepare_latents`."""
        vae, feeds = context.vae, {}
        if images := self._resized():
            latents = [vae.normalize(vae.mode(read_transparent(image))) for image in images]
            denoiser: Any = context.family.denoiser
            feeds = denoiser.reference_feeds(latents, context.images, context.copies)
        return LoopInit(
            latents=context.noise() * context.noise_scale,
            timesteps=start_at_index(context.scheduler, context.begin_index or 0),
            feeds=feeds,
        )

    def shown(self) -> list[Any]:
        """Return the images that the language model sees, on white where they are transparent."""
        from PIL import Image

        flat = []
        for image in self._resized():
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(image, mask=image.getchannel("A"))
            flat.append(white)
        return flat

    def _images(self) -> list[Any]:
        image: Any = self.image
        if image is None:
            return []
        return list(image) if isinstance(image, Sequence) else [image]

    def _seen_size(self, image: "Image") -> tuple[int, int]:
        return area_size(self.output_resolution**2, image)

    def _resized(self) -> list[Any]:
        """Return the images with an alpha channel, in the size in which they are seen."""
        from PIL.Image import Resampling

        sizes = [(image.convert("RGBA"), self._seen_size(image)) for image in self._images()]
        return [image.resize((width, height), Resampling.LANCZOS) for image, (height, width) in sizes]
