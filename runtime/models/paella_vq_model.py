"""PaellaVQModel: the last stage of Stable Cascade and of Würstchen, which decodes latents without quantizing them."""

import numpy as np

from diffoundry.runtime.engines.outputs import only_output
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer, number
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import VAE_DECODER

__all__ = ["MOST_LEVELS", "PaellaVQModel"]

MOST_LEVELS = 16
"""Most levels, each of which halves the image."""


class PaellaVQModel:
    """Decodes latents (B, C, h, w). diffusers: `PaellaVQModel`.

    Rampas et al. 2022, https://arxiv.org/abs/2211.07292.

    Attributes:
        component: Name of the component.
        factor: Pixels to a side of a latent.
        latent_channels: C.
        scale_factor: Factor of latents before they are decoded.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no decoder, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        self.component = session.bundle.component(VAE_DECODER)
        config, subject = session.bundle.config(self.component), f"{self.component}/config.json"
        levels = integer(config, "levels", 2, subject=subject, maximum=MOST_LEVELS)
        self.factor = int(integer(config, "up_down_scale_factor", 2, subject=subject) * 2 ** (levels - 1))
        self.latent_channels = integer(config, "latent_channels", 4, subject=subject)
        self.scale_factor = number(config, "scale_factor", 0.3764, subject=subject, minimum=1e-9, maximum=1e9)
        self._session = session

    def decode(self, latents: FloatArray) -> FloatArray:
        """Return images (B, 3, H, W) in 0..1 of the scheduler's latents."""
        feeds = {"latent_sample": np.float32(self.scale_factor) * latents}
        rows, _, height, width = latents.shape
        shape = rows, 3, height * self.factor, width * self.factor
        pixels = only_output(self._session.run(self.component, feeds), self.component, shape)
        return np.clip(pixels, 0, 1)
