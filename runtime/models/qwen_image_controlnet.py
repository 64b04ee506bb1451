"""QwenImageControlNetModel: a control image that guides the transformer of Qwen-Image, as residuals of its blocks."""

from typing import ClassVar

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.flux_transformer_2d import pack_latents
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.qwen_image_transformer_2d import read_layout, token_feeds

__all__ = ["QwenImageControlNetModel"]


class QwenImageControlNetModel(ControlNetModel):
    """Runs one ControlNet. diffusers: `QwenImageControlNetModel`."""

    encodes_image: bool = True
    signed_pixels: ClassVar[bool] = True
    serves_both: ClassVar[bool] = True
    has_guess_mode: ClassVar[bool] = False

    def __init__(self, session: EngineSession, component: str) -> None:
        """See `ControlNetModel`."""
        super().__init__(session, component)
        self._axes = read_layout(session.bundle.config(component), f"{component}/config.json").axes

    def __call__(
        self,
        sample: FloatArray,
        timestep: float,
        conditioning: Feeds,
        image: FloatArray,
        *,
        scale: float = 1.0,
        guess_mode: bool = False,  # noqa: ARG002
    ) -> dict[str, FloatArray]:
        """See `ControlNetModel`; the image is latents (B, C, h, w). It has no guess mode."""
        feeds = token_feeds(sample, timestep, self._axes, conditioning["encoder_hidden_states"].shape[1])
        return self._scaled({**feeds, "controlnet_cond": pack_latents(image), **conditioning}, scale)
