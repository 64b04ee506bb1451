"""CLIP's image encoders, which condition on an image instead of a text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.feature_extractor import FeatureExtractor
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import IMAGE_ENCODER

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["EXTRACTOR_FILE", "CLIPVisionModel", "CLIPVisionModelWithProjection"]

_FILE = "preprocessor_config.json"

EXTRACTOR_FILE = f"feature_extractor/{_FILE}"
"""Config of the preparation of images for networks that look at them."""


class _ImageEncoder:
    """Reads the config of an image encoder, and prepares its images.

    Attributes:
        component: Name of the component.
        extractor: Prepares PIL images.
    """

    def __init__(self, session: EngineSession, folder: str = "feature_extractor") -> None:
        """Read the config of the feature extractor; the engine is opened when first needed.

        Args:
            session: The engines.
            folder: Folder of the config, as the checkpoint names it; Kandinsky's is "image_processor".

        Raises:
            BundleError: The bundle lacks the image encoder or the feature extractor's config.
            ConfigError: The feature extractor is of another kind.
        """
        self.component = session.bundle.component(IMAGE_ENCODER)
        self.extractor = FeatureExtractor.from_config(session.bundle.read_object(f"{folder}/{_FILE}"))
        self._session = session

    def prepare(self, images: "Sequence[Image]") -> FloatArray:
        """Prepare images as the network takes them, (B, 3, side, side)."""
        return self.extractor(images)

    def run(self, pixels: FloatArray) -> Outputs:
        """Run the network on prepared pixels."""
        return Outputs(self._session.run(self.component, {"pixel_values": pixels}), self.component)

    def __call__(self, pixels: FloatArray) -> FloatArray:
        """Encode prepared pixels (B, 3, side, side)."""
        raise NotImplementedError


class CLIPVisionModelWithProjection(_ImageEncoder):
    """Encodes images into one vector each. transformers: `CLIPVisionModelWithProjection`."""

    def __call__(self, pixels: FloatArray) -> FloatArray:
        """Return one projected vector an image, (B, D)."""
        return self.run(pixels).take("image_embeds", (len(pixels), None))


class CLIPVisionModel(_ImageEncoder):
    """Encodes images into states of their tokens. transformers: `CLIPVisionModel`."""

    def __call__(self, pixels: FloatArray) -> FloatArray:
        """Return the last states (B, tokens, D): those of the class token first, then of the patches."""
        return self.run(pixels).take("last_hidden_state", (len(pixels), None, None))
