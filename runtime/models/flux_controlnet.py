"""FluxControlNetModel: a control image that guides the transformer of FLUX.1, as residuals of its blocks."""

from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import Config, integer
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.flux_transformer_2d import FluxLayout, pack_latents, read_layout, token_feeds
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["FluxControlNetModel", "read_controlnet_layout", "reads_pixels"]


def reads_pixels(config: Config) -> bool:
    """Return whether a ControlNet sees the pixels of its image, as those of XLabs do, and not its latents."""
    return config.get("conditioning_embedding_channels") is not None


def read_controlnet_layout(config: Config, subject: str) -> FluxLayout:
    """Read config.json as `flux_transformer_2d.read_layout`; its `patch_size` is that of the pixels' features."""
    return read_layout({**config, "patch_size": 1}, subject)


class FluxControlNetModel(ControlNetModel):
    """Runs one ControlNet. diffusers: `FluxControlNetModel`."""

    signed_pixels: ClassVar[bool] = True
    serves_both: ClassVar[bool] = True
    has_guess_mode: ClassVar[bool] = False

    def __init__(self, session: EngineSession, component: str) -> None:
        """See `ControlNetModel`."""
        ControlNetModel.__init__(self, session, component)
        config, subject = session.bundle.config(component), f"{component}/config.json"
        self.encodes_image = not reads_pixels(config)
        self.modes = integer(config, "num_mode", None, subject=subject)
        self._axes = read_controlnet_layout(config, subject).axes

    def call_feeds(self, rows: int, guidance_scale: float, mode: int | None) -> Feeds:
        """See `ControlNetModel`: the guidance scale, which the transformer may not take, and the kind of image."""
        kind: dict[str, Any] = {} if mode is None else {"controlnet_mode": np.array([mode], np.int32)}
        return {"guidance": np.full(rows, guidance_scale, np.float32), **kind}

    def _offer(self, sample: FloatArray, timestep: float, conditioning: Feeds, image: FloatArray) -> Feeds:
        """See `ControlNetModel`."""
        seen = pack_latents(image) if self.encodes_image else image
        _, places = token_feeds(sample, timestep, self._axes)
        return {**places, "controlnet_cond": seen, **conditioning}
