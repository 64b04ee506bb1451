"""SD3ControlNetModel: control latents that guide the transformer of Stable Diffusion 3, as residuals of its blocks."""

from typing import ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import flag, integer
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["SD3ControlNetModel"]


class SD3ControlNetModel(ControlNetModel):
    """Runs one ControlNet. diffusers: `SD3ControlNetModel`.

    Those for inpainting take a mask beside the image. InstantX trained on latents without the VAE's `shift_factor`.
    """

    encodes_image = True
    draws_apart: bool = True
    has_guess_mode: ClassVar[bool] = False

    def __init__(self, session: EngineSession, component: str) -> None:
        """See `ControlNetModel`."""
        ControlNetModel.__init__(self, session, component)
        config, subject = session.bundle.config(component), f"{component}/config.json"
        self.takes_mask = integer(config, "extra_conditioning_channels", 0, subject=subject, minimum=0) > 0
        forced = flag(config, "force_zeros_for_pooled_projection", default=True, subject=subject)
        # diffusers: `StableDiffusion3ControlNetPipeline`, and that for inpainting, which looks at no config.
        self.shifts_latents = self.takes_mask or not forced
        self._pooled_zeros = self.takes_mask or forced

    def _offer(self, sample: FloatArray, timestep: float, conditioning: Feeds, image: FloatArray) -> Feeds:
        """See `ControlNetModel`."""
        pooled = conditioning["pooled_projections"]
        if self._pooled_zeros:
            pooled = np.zeros_like(pooled)
        offered = super()._offer(sample, timestep, conditioning, image)
        return {**offered, "hidden_states": sample, "pooled_projections": pooled}
