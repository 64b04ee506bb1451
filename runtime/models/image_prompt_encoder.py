"""CLIP's image encoder for image prompts: a vector an image, or the hidden states of its tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.images.feature_extractor import FeatureExtractor
from diffoundry.runtime.models.clip_vision import EXTRACTOR_FILE
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import IMAGE_ENCODER

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImagePromptEncoder"]

_SIDE = 224
"""Default of transformers for `image_size`."""


class ImagePromptEncoder:
    """Runs the image encoder of IP-Adapters. transformers: `CLIPVisionModelWithProjection`.

    Attributes:
        component: Name of the component.
        extractor: Prepares PIL images: the bundle's, or the usual one for the encoder's size, as diffusers'
            `load_ip_adapter` makes it.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the configs; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no config of the encoder.
            ConfigError: A field is damaged, or the feature extractor is of another kind.
        """
        bundle = session.bundle
        self.component = bundle.component(IMAGE_ENCODER)
        config, subject = bundle.config(self.component), f"{self.component}/config.json"
        side = integer(config, "image_size", _SIDE, subject=subject)
        self.extractor = (
            FeatureExtractor.from_config(bundle.read_object(EXTRACTOR_FILE))
            if bundle.has(EXTRACTOR_FILE)
            else FeatureExtractor(resize=side, crop=(side, side))
        )
        self._session = session

    def __call__(self, images: "Sequence[Image]", *, pooled: bool) -> tuple[FloatArray, FloatArray]:
        """Encode images, and no image.

        diffusers: `encode_image`: without an image the vector is zeros, and hidden states are those of zero pixels.

        Args:
            images: PIL images.
            pooled: True for vectors (n, E); False for hidden states (n, tokens, E) of the last layer but one.

        Returns:
            Those of the images, and as many of no image.
        """
        pixels = self.extractor(images)
        if pooled:
            embeds = self._run(pixels).take("image_embeds", (len(pixels), None))
            return embeds, np.zeros_like(embeds)
        outputs = self._run(np.concatenate([pixels, np.zeros_like(pixels[:1])]))
        name = next((name for name in outputs if name.startswith("hidden_states")), "hidden_states")
        states = outputs.take(name, (len(pixels) + 1, None, None))
        return states[:-1], np.repeat(states[-1:], len(pixels), axis=0)

    def _run(self, pixels: FloatArray) -> Outputs:
        return Outputs(self._session.run(self.component, {"pixel_values": pixels}), self.component)
