"""The arguments of the DeepFloyd IF pipelines, under diffusers' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.checks.arguments import check_number, check_numbers, check_pixels, check_type
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.inputs import PromptInputs
from diffoundry.runtime.pipelines.tasks.schedule import check_strength

__all__ = [
    "IFImageInputs",
    "IFInpaintInputs",
    "IFInputs",
    "IFSuperImageInputs",
    "IFSuperInpaintInputs",
    "IFSuperInputs",
    "IFTextInputs",
]

_SMALL = "the small image to enlarge"
_MASK = "a mask, white where the image is generated"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IFInputs(PromptInputs):
    """The arguments of every DeepFloyd IF pipeline.

    Attributes:
        height: Pixels; None takes the checkpoint's own size, or that of the image to start from.
        width: Pixels; likewise.
        num_inference_steps: Steps of the scheduler.
        timesteps: The caller's own timesteps instead, in descending order.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        num_images_per_prompt: Images for every prompt.
        eta: DDIM's eta, 0 to 1.
        clean_caption: True removes links, markup and signs from prompts, for which the packages beautifulsoup4 and ftfy
            are needed. False only lowers them. None removes if both packages are installed, as diffusers does.
        disable_watermark: True draws no watermark, as diffusers without its `watermarker`.
    """

    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 100
    timesteps: Sequence[int] | None = None
    guidance_scale: float = 7.0
    num_images_per_prompt: int = 1
    eta: float = 0.0
    clean_caption: bool | None = None
    disable_watermark: bool = False

    def check(self) -> None:
        """Refuse wrong prompts, and numbers out of range.

        Raises:
            InputError: As said.
        """
        PromptInputs.check(self)
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        check_number("eta", self.eta, 0, 1.0)
        check_numbers("timesteps", self.timesteps)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))
        if self.clean_caption is not None:
            check_type("clean_caption", self.clean_caption, bool, "True or False")

    @property
    def steps(self) -> int:
        """Number of steps as the caller counts them."""
        return self.num_inference_steps if self.timesteps is None else len(self.timesteps)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IFTextInputs(IFInputs):
    """The arguments of diffusers' `IFPipeline`.

    Attributes:
        latents: Start noise, float32 (B, 3, height, width), instead of drawing it. diffusers always draws.
    """

    latents: FloatArray | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IFImageInputs(IFInputs):
    """The arguments of diffusers' `IFImg2ImgPipeline`.

    Attributes:
        image: The image to start from, or one for each prompt. The shorter side of a PIL image is resized to the
            checkpoint's size, the longer one to a multiple of 8 pixels. An array (B, H, W, 3), a tensor (B, 3, H, W) or
            a result of output_type "latent", all in -1..1, is taken as it is.
        strength: Fraction of the schedule that is run, above 0 to 1. Less changes the image less.
    """

    image: "ImageInput | None" = None
    strength: float = 0.7
    num_inference_steps: int = 80
    guidance_scale: float = 10.0

    def check(self) -> None:
        """See `IFInputs.check`; an image is needed too."""
        IFInputs.check(self)
        check_strength(self.strength)
        _require("image", self.image, "the image to start from")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IFInpaintInputs(IFImageInputs):
    """The arguments of diffusers' `IFInpaintingPipeline`.

    Attributes:
        mask_image: White where the image is generated, black where it is kept; one for all prompts or one for each. PIL
            images are resized as `image` is. Arrays and tensors, in 0..1, have the size of the image.
    """

    mask_image: "MaskInput | None" = None
    strength: float = 1.0
    num_inference_steps: int = 50
    guidance_scale: float = 7.0

    def check(self) -> None:
        """See `IFImageInputs.check`; a mask is needed too."""
        IFImageInputs.check(self)
        _require("mask_image", self.mask_image, _MASK)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IFSuperInputs(IFInputs):
    """The arguments of diffusers' `IFSuperResolutionPipeline`.

    Attributes:
        image: The small image, or one for each prompt. PIL images keep their size. An array (B, H, W, 3), a tensor
            (B, 3, H, W) or a result of output_type "latent", all in -1..1, is taken as it is.
        noise_level: Timestep of the noise that is added to the small image. More gives more freedom.
        latents: Start noise, float32 (B, 3, height, width), instead of drawing it. diffusers always draws.
    """

    image: "ImageInput | None" = None
    num_inference_steps: int = 50
    guidance_scale: float = 4.0
    noise_level: int = 250
    latents: FloatArray | None = None

    def check(self) -> None:
        """See `IFInputs.check`; an image is needed too."""
        IFInputs.check(self)
        check_number("noise_level", self.noise_level, 0, whole=True)
        _require("image", self.image, _SMALL)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IFSuperImageInputs(IFInputs):
    """The arguments of diffusers' `IFImg2ImgSuperResolutionPipeline`.

    Attributes:
        image: The small image, as in `IFSuperInputs`.
        original_image: The image that the small one was made of, or one for each prompt: where the run starts. It is
            resized as in `IFImageInputs.image`.
        strength: Fraction of the schedule that is run, above 0 to 1.
        noise_level: As in `IFSuperInputs`.
    """

    image: "ImageInput | None" = None
    original_image: "ImageInput | None" = None
    strength: float = 0.8
    num_inference_steps: int = 50
    guidance_scale: float = 4.0
    noise_level: int = 250

    def check(self) -> None:
        """See `IFInputs.check`; both images are needed too."""
        IFInputs.check(self)
        check_strength(self.strength)
        check_number("noise_level", self.noise_level, 0, whole=True)
        _require("image", self.image, _SMALL)
        _require("original_image", self.original_image, "the image that the small one was made of")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IFSuperInpaintInputs(IFSuperImageInputs):
    """The arguments of diffusers' `IFInpaintingSuperResolutionPipeline`.

    Attributes:
        mask_image: As in `IFInpaintInputs`, of `original_image`.
    """

    mask_image: "MaskInput | None" = None
    num_inference_steps: int = 100
    noise_level: int = 0

    def check(self) -> None:
        """See `IFSuperImageInputs.check`; a mask is needed too."""
        IFSuperImageInputs.check(self)
        _require("mask_image", self.mask_image, _MASK)


def _require(name: str, value: Any, meaning: str) -> None:
    if value is None:
        raise InputError(f"{name}: got none, expected {meaning}")
