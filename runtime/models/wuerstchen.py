"""WuerstchenPrior and WuerstchenDiffNeXt: the networks of both stages of Würstchen."""

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import MAX_SIDE, integer, integers
from diffoundry.runtime.models.denoiser import DenoiserNetwork
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["DECODER_LEVELS", "WuerstchenDiffNeXt", "WuerstchenPrior", "features_name"]

DECODER_LEVELS = (320, 640, 1280, 1280)
"""Default of diffusers for `c_hidden`."""


def features_name(level: int) -> str:
    """Return the input of the decoder for what the prior made, as large as the features of a level from 0 on."""
    return f"effnet_{level}"


class WuerstchenPrior(DenoiserNetwork):
    """diffusers: `WuerstchenPrior`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D).

    Attributes:
        text_width: D.
    """

    def __init__(self, session: EngineSession, component: str = "prior") -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no such component, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session, component)
        config, subject = self._config, self._subject
        self.in_channels = self.out_channels = integer(config, "c_in", 16, subject=subject)
        self.first_channels = integer(config, "c", 1280, subject=subject)
        self.text_width = integer(config, "c_cond", 1024, subject=subject)


class WuerstchenDiffNeXt(DenoiserNetwork):
    """diffusers: `WuerstchenDiffNeXt`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D), and of each level that reads what the prior made one
    input; see `resize`.

    Attributes:
        text_width: D.
        effnet_channels: Channels of what the prior made.
        levels: Number of levels, each of which but the first halves the sides.
    """

    def __init__(self, session: EngineSession, component: str = "decoder") -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no such component, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session, component)
        config, subject = self._config, self._subject
        self.in_channels = integer(config, "c_in", 4, subject=subject)
        self.out_channels = integer(config, "c_out", 4, subject=subject)
        self.patch_size = integer(config, "patch_size", 2, subject=subject, maximum=MAX_SIDE)
        widths = integers(config, "c_hidden", DECODER_LEVELS, subject=subject)
        self.first_channels, self.levels = min(widths), len(widths)
        self.text_width = integer(config, "clip_embd", 1024, subject=subject)
        self.effnet_channels = integer(config, "effnet_embd", 16, subject=subject)

    @property
    def multiple(self) -> int:
        """Number of which both sides of the latents are multiples."""
        return self.patch_size * int(2 ** (self.levels - 1))

    def resize(self, features: FloatArray, sides: tuple[int, int]) -> Feeds:
        """Return what the prior made, as large as the features of every level that reads it.

        They are the same in every step, so the engine need not resize them.

        Args:
            features: float32 (B, C, h, w).
            sides: Height and width of the latents.
        """
        taken = {spec.name for spec in self._session.inputs(self.component)}
        steps = ((level, self.patch_size * int(2**level)) for level in range(self.levels))
        return {
            features_name(level): resample(
                features, [side // step for side in sides], "bicubic", align_corners=True, antialias=True
            ).astype(np.float32)
            for level, step in steps
            if features_name(level) in taken
        }
