"""Image variation: the denoiser is conditioned on an image as CLIP sees it, in the place of a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.feature_extractor import FeatureExtractor
from diffoundry.runtime.pipelines.condition import Condition, Feeds, Frame
from diffoundry.runtime.pipelines.families.clip import ClipEncoder
from diffoundry.runtime.pipelines.safety import EXTRACTOR_FILE
from diffoundry.runtime.pipelines.tasks.source_images import image_size

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageVariation", "Seen"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """The images of one call, in the place of prompts.

    Attributes:
        image: A PIL image of any size, or several; or an array of what the feature extractor makes of them, floats
            (B, 3, side, side), as diffusers takes a tensor.
        prompt: Refused: there is no text encoder.
        negative_prompt: Refused.
    """

    image: "Image | Sequence[Image] | FloatArray | None" = None
    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.image) if isinstance(self.image, Sequence | np.ndarray) else 1

    def check(self) -> None:
        """Refuse what is no image.

        Raises:
            InputError: Subject, got, expected.
        """
        for name in ("prompt", "negative_prompt"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name}: got {getattr(self, name)!r}, expected none: this checkpoint generates variations of a "
                    f"image and takes no text; leave it out"
                )
        if self.image is None:
            raise InputError("image: got none, expected an image: variations of it are what this checkpoint generates")
        if isinstance(self.image, np.ndarray):
            if self.image.dtype.kind != "f" or self.image.ndim != 4 or not len(self.image):
                raise InputError(
                    f"image: got an array of {self.image.dtype} {self.image.shape}, expected PIL images, or floats "
                    f"(images, 3, side, side) as CLIP's image processor gives them"
                )
            return
        images: list[Any] = list(self.image) if isinstance(self.image, Sequence) else [self.image]
        if not images:
            raise InputError("image: got an empty list, expected at least one image")
        for image in images:
            if isinstance(image, np.ndarray):
                raise InputError("image: got a list of arrays, expected PIL images, or one array of prepared pixels")
            image_size(image)  # says so when it is none, or transparent


class ImageVariation:
    """Drives image_encoder; see `Family`. diffusers: `StableDiffusionImageVariationPipeline`."""

    Arguments: ClassVar[type[Any]] = Seen
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    guided_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    unstandardized: ClassVar[tuple[str, ...]] = ()
    first_index: ClassVar[int | None] = None
    standardizes: ClassVar[bool] = False
    needs: tuple[str, ...] = ()
    encoders: tuple[ClipEncoder, ...] = ()

    def __init__(self, components: EngineSession) -> None:
        """Read how images are prepared.

        Raises:
            BundleError: The bundle lacks the image encoder or the feature extractor's config.
            ConfigError: The feature extractor is of another kind.
        """
        components.bundle.engines("image_encoder")
        self._extractor = FeatureExtractor.from_config(components.bundle.read_json(EXTRACTOR_FILE))
        self._components = components

    def mend(self, _config: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Family`: nothing."""
        return {}

    def encode(self, prompts: Seen, frame: Frame) -> Condition:
        """See `Family`; the unconditional rows are zeros. diffusers: `_encode_image`."""
        embeds = self._components.run("image_encoder", {"pixel_values": self._pixels(prompts)})["image_embeds"]
        states = np.repeat(embeds[:, None], frame.images_per_prompt, axis=0)
        conditional: Feeds = {"encoder_hidden_states": states}
        unconditional: Feeds = {"encoder_hidden_states": np.zeros_like(states)}
        return Condition(
            conditional=conditional,
            unconditional=unconditional if frame.guided else None,
            truncated=("",) * prompts.count,
        )

    def _pixels(self, seen: Seen) -> FloatArray:
        if isinstance(seen.image, np.ndarray):
            return seen.image.astype(np.float32)
        images: Any = seen.image
        return self._extractor(list(images) if isinstance(images, Sequence) else [images])
