"""HunyuanDiT2DControlNetModel: control latents that guide Hunyuan-DiT, as residuals of its skip connections."""

from typing import ClassVar

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.hunyuan_dit_2d import position_feeds
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["HunyuanDiT2DControlNetModel"]


class HunyuanDiT2DControlNetModel(ControlNetModel):
    """Runs one ControlNet. diffusers: `HunyuanDiT2DControlNetModel`."""

    encodes_image: bool = True
    shifts_latents: bool = False
    draws_apart: bool = True
    has_guess_mode: ClassVar[bool] = False

    def __init__(self, session: EngineSession, component: str) -> None:
        """See `ControlNetModel`."""
        super().__init__(session, component)
        config, subject = session.bundle.config(component), f"{component}/config.json"
        self._patch = integer(config, "patch_size", 2, subject=subject)
        self._head = integer(config, "attention_head_dim", 88, subject=subject)

    def _offer(self, sample: FloatArray, timestep: float, conditioning: Feeds, image: FloatArray) -> Feeds:
        """See `ControlNetModel`."""
        rows, columns = (side // self._patch for side in sample.shape[2:])
        positions = position_feeds(rows, columns, self._patch, self._head)
        return {**super()._offer(sample, timestep, conditioning, image), "hidden_states": sample, **positions}
