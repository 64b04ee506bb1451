"""Super-resolution by latent diffusion: an image beside the latents, decoded to an image of several times its size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.images.pixels import ImageInput, preprocess, read_pixels, snap_size
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.images.tensors import is_tensor
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.unet_2d import UNet2DModel
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage, StagedRun
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size

__all__ = ["LatentSuperResolution", "SuperResolutionInputs"]

_MULTIPLE = 32
"""Sides of an image are rounded down to multiples of this. diffusers: `preprocess` of this pipeline."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SuperResolutionInputs:
    """The arguments of diffusers' `LDMSuperResolutionPipeline`.

    Attributes:
        image: Image to enlarge. A PIL image, or several of one size, are resized to multiples of 32 pixels. An array
            (B, H, W, 3) or a tensor (B, 3, H, W) in -1..1 is taken as it is.
        batch_size: Number of results of one image. diffusers ignores it, and returns one for each image.
        num_inference_steps: Steps of the scheduler.
        eta: DDIM's eta, 0 to 1.
    """

    image: "ImageInput | None" = None
    batch_size: int = 1
    num_inference_steps: int = 100
    eta: float = 0.0

    def check(self) -> None:
        """Refuse a missing image, and numbers that do not fit.

        Raises:
            InputError: As said.
        """
        if self.image is None:
            raise InputError("image: got none, expected the image to enlarge")
        check_number("eta", self.eta, 0, 1.0)
        if self.count > 1 and self.batch_size not in (1, self.count):
            raise InputError(
                f"batch_size: got {self.batch_size} for {self.count} images, expected {self.count}; several "
                f"results are made of one image alone, so leave it out"
            )

    @property
    def count(self) -> int:
        """Number of images."""
        image: Any = self.image
        if isinstance(image, Sequence):
            return len(image)
        return int(image.shape[0]) if getattr(image, "ndim", 0) == 4 else 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels that the network sees.

        Raises:
            InputError: Images of several sizes, or too small.
        """
        assert self.image is not None, "checked"
        height, width = image_size(self.image)
        return (height, width) if self._is_exact else snap_size(height, width, _MULTIPLE)

    def pixels(self) -> FloatArray:
        """Return the images, float32 (B, 3, H, W) in -1..1.

        Raises:
            InputError: No images.
        """
        assert self.image is not None, "checked"
        return read_pixels(self.image) if self._is_exact else preprocess(self.image, factor=_MULTIPLE)

    @property
    def _is_exact(self) -> bool:
        """True for arrays and tensors, which are taken as they are."""
        first = self.image[0] if isinstance(self.image, Sequence) else self.image
        return isinstance(first, np.ndarray) or is_tensor(first)


class LatentSuperResolution(StagedPipeline):
    """diffusers: `LDMSuperResolutionPipeline`. Rombach et al. 2021, https://arxiv.org/abs/2112.10752, section 4.4.

    Attributes:
        vae: The VQModel or AutoencoderKL.
        unet: The denoiser, which sees the image in half of its channels.
    """

    Inputs: ClassVar[type[Any]] = SuperResolutionInputs
    label: ClassVar[str] = "enlarged images"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`.

        Raises:
            BundleError: The UNet has no channels for the image.
        """
        self.unet = self.denoiser = UNet2DModel(session)
        self.vae = open_vae(session)
        channels = self.vae.latent_channels
        if (self.unet.in_channels, channels) != (2 * channels, 3):
            raise BundleError(
                f"{self.unet.component}/config.json: got {self.unet.in_channels} channels in and latents of "
                f"{channels}, expected 6 and 3 for super-resolution: latents, and the image beside them"
            )

    @property
    def scale_factor(self) -> int:
        """Pixels of the result to a pixel of the image."""
        return self.vae.scale_factor

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        return ("image",)

    @property
    def example_scale(self) -> int:
        """See `PipelineBase`."""
        return self.scale_factor

    def start(self, prompt: Any = None, **arguments: Any) -> StagedRun:
        """Prepare a run. As in diffusers, the first argument may be the image.

        Raises:
            InputError: As `__call__`.
        """
        if prompt is not None and not isinstance(prompt, str) and "image" not in arguments:
            return super().start(image=prompt, **arguments)
        return super().start(prompt, **arguments)

    def images(self, inputs: SuperResolutionInputs) -> int:
        """See `StagedPipeline`."""
        return max(inputs.count, inputs.batch_size)

    def size(self, inputs: SuperResolutionInputs) -> tuple[int, int]:
        """Return height and width of the results in pixels.

        Raises:
            InputError: The UNet cannot halve the image as often as it has to.
        """
        height, width = inputs.size
        multiple = self.unet.size_multiple
        if height % multiple or width % multiple:
            raise InputError(
                f"image: got {width}x{height} pixels, expected multiples of {multiple} for this checkpoint"
            )
        return height * self.scale_factor, width * self.scale_factor

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, call.scheduler
        shape = self.unet.latent_shape(call.images, *call.size, self.vae)
        scheduler.check_loop(channels=shape[1], output_channels=self.unet.out_channels, eta=inputs.eta)
        scheduler.check_latents(scaled=True)
        scheduler.set_timesteps(inputs.num_inference_steps)
        pixels = fill_batch(inputs.pixels(), call.images)

        def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
            # The image is scaled together with the latents, as in diffusers.
            joined = scheduler.scale_model_input(np.concatenate([latents, pixels], axis=1), timestep)
            return self.unet(joined, timestep, {})

        def run(_: FloatArray | None) -> Any:
            noise = call.randn(shape) * scheduler.init_noise_sigma
            return call.denoise(predict, noise, eta=inputs.eta, scale_input=False)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: latents are in the VAE's own scale."""
        return latents if output_type == "latent" else postprocess(self.vae.decode(latents), output_type)
