"""StableCascadeUNet: the network of both stages of Stable Cascade."""

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import MAX_SIDE, integer, integers
from diffoundry.runtime.models.denoiser import DenoiserNetwork

__all__ = ["CHANNELS", "LEVELS", "StableCascadeUNet"]

CHANNELS = 16
"""Default of diffusers for `in_channels` and `out_channels`."""

LEVELS = (2048, 2048)
"""Default of diffusers for `block_out_channels`."""


class StableCascadeUNet(DenoiserNetwork):
    """diffusers: `StableCascadeUNet`.

    Its conditioning: "clip_text_pooled" (B, 1, P). Of the prior also "clip_text" (B, tokens, D) and "clip_img"
    (B, images, E). Of the decoder "effnet" (B, C, h, w): the result of the prior, as large as the patches.

    Attributes:
        pooled_width: P.
        image_width: E, or 0 where the config names none.
        effnet_channels: C, or 0 where the config names none.
    """

    def __init__(self, session: EngineSession, component: str) -> None:
        """Read the config; the engine is opened when first needed.

        Args:
            session: The engines.
            component: Name of the component: "prior" or "decoder".

        Raises:
            BundleError: The bundle has no such component, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session, component)
        config, subject = self._config, self._subject
        self.in_channels = integer(config, "in_channels", CHANNELS, subject=subject)
        self.out_channels = integer(config, "out_channels", CHANNELS, subject=subject)
        self.patch_size = integer(config, "patch_size", 1, subject=subject, maximum=MAX_SIDE)
        self.first_channels = min(integers(config, "block_out_channels", LEVELS, subject=subject))
        self.pooled_width = integer(config, "clip_text_pooled_in_channels", 1280, subject=subject)
        self.image_width = integer(config, "clip_image_in_channels", None, subject=subject) or 0
        self.effnet_channels = integer(config, "effnet_in_channels", None, subject=subject) or 0
