"""QwenImageControlNetModel: a control image that guides the transformer of Qwen-Image, as residuals of its blocks."""

from typing import ClassVar

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import Config, integer, refuse
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.flux_transformer_2d import PATCH, pack_latents
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.qwen_image_transformer_2d import read_layout, token_feeds

__all__ = ["QwenImageControlNetModel", "mask_channels"]


def mask_channels(config: Config, subject: str) -> int:
    """Return the channels of a token for a mask beside the latents of the image: 0 or 4.

    Args:
        config: Of the ControlNet.
        subject: Name of the file in messages.

    Raises:
        ConfigError: There is another number.
    """
    extra = integer(config, "extra_condition_channels", 0, subject=subject, minimum=0)
    if extra not in (0, PATCH**2):
        raise refuse(subject, "extra_condition_channels", extra, f"0, or {PATCH**2} for a mask of 2 x 2 latents")
    return extra


class QwenImageControlNetModel(ControlNetModel):
    """Runs one ControlNet. diffusers: `QwenImageControlNetModel`.

    Those for inpainting take a mask beside the image, whose latents diffusers draws from torch's global generator.
    """

    encodes_image: bool = True
    signed_pixels: ClassVar[bool] = True
    serves_both: ClassVar[bool] = True
    has_guess_mode: ClassVar[bool] = False

    def __init__(self, session: EngineSession, component: str) -> None:
        """See `ControlNetModel`."""
        super().__init__(session, component)
        config, subject = session.bundle.config(component), f"{component}/config.json"
        self._axes = read_layout(config, subject).axes
        self.takes_mask = self.draws_apart = mask_channels(config, subject) > 0

    def _offer(self, sample: FloatArray, timestep: float, conditioning: Feeds, image: FloatArray) -> Feeds:
        """See `ControlNetModel`."""
        feeds = token_feeds(sample, timestep, self._axes, conditioning["encoder_hidden_states"].shape[1])
        return {**feeds, "controlnet_cond": pack_latents(image), **conditioning}
