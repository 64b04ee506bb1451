"""Image variation: the denoiser is conditioned on an image, encoded by CLIP, instead of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.clip_vision import CLIPVisionModelWithProjection
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.guidance import Condition
from diffoundry.runtime.pipelines.tasks.source_images import image_size

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImagePrompt", "ImageVariation"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImagePrompt:
    """The images of one call, instead of prompts.

    Attributes:
        image: A PIL image of any size, or several; or the array that the feature extractor makes of them, floats
            (B, 3, side, side), as diffusers takes a tensor.
        prompt: Refused: there is no text encoder.
        negative_prompt: Refused.
    """

    image: "Image | Sequence[Image] | FloatArray | None" = None
    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.pixels) if isinstance(self.pixels, Sequence | np.ndarray) else 1

    @property
    def pixels(self) -> Any:
        """The image or images; a tensor of torch as an array."""
        return to_array(self.image) if is_tensor(self.image) else self.image

    def check(self) -> None:
        """Refuse texts, and anything that is no image.

        Raises:
            InputError: Subject, got, expected.
        """
        for name in ("prompt", "negative_prompt"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name}: got {getattr(self, name)!r}, expected none: this checkpoint generates variations of an "
                    f"image and takes no text; leave it out"
                )
        if self.image is None:
            raise InputError("image: got none, expected an image: variations of it are what this checkpoint generates")
        if isinstance(given := self.pixels, np.ndarray):
            if given.dtype.kind != "f" or given.ndim != 4 or not len(given):
                raise InputError(
                    f"image: got an array of {given.dtype} {given.shape}, expected PIL images, or floats "
                    f"(images, 3, side, side) as CLIP's image processor gives them"
                )
            return
        images: list[Any] = list(self.image) if isinstance(self.image, Sequence) else [self.image]
        if not images:
            raise InputError("image: got an empty list, expected at least one image")
        for image in images:
            if isinstance(image, np.ndarray) or is_tensor(image):
                raise InputError("image: got a list of arrays, expected PIL images, or one array of prepared pixels")
            image_size(image)  # refuses other types and transparent images


class ImageVariation(Family):
    """diffusers: `StableDiffusionImageVariationPipeline`."""

    Inputs: ClassVar[type[Any]] = ImagePrompt
    returns_flags: ClassVar[bool] = True

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser = UNet2DConditionModel(session)
        self._encoder = CLIPVisionModelWithProjection(session)

    def encode(self, inputs: ImagePrompt, options: EncodeOptions) -> Condition:
        """See `Family`; the unconditional rows are zeros. diffusers: `_encode_image`."""
        states = np.repeat(self._encoder(self._pixels(inputs))[:, None], options.images_per_prompt, axis=0)
        return Condition(
            conditional={"encoder_hidden_states": states},
            unconditional={"encoder_hidden_states": np.zeros_like(states)} if options.guided else None,
            truncated=("",) * inputs.count,
        )

    def _pixels(self, inputs: ImagePrompt) -> FloatArray:
        images = inputs.pixels
        if isinstance(images, np.ndarray):
            return images.astype(np.float32)
        return self._encoder.prepare(list(images) if isinstance(images, Sequence) else [images])
