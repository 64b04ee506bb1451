"""StableCascadeUNet: the network of both stages of Stable Cascade."""

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.outputs import only_output
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import MAX_SIDE, integer, integers
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["CHANNELS", "LEVELS", "StableCascadeUNet"]

CHANNELS = 16
"""Default of diffusers for `in_channels` and `out_channels`."""

LEVELS = (2048, 2048)
"""Default of diffusers for `block_out_channels`."""


class StableCascadeUNet:
    """A `Denoiser`. diffusers: `StableCascadeUNet`.

    Its conditioning: "clip_text_pooled" (B, 1, P). Of the prior also "clip_text" (B, tokens, D) and "clip_img"
    (B, images, E). Of the decoder "effnet" (B, C, h, w): the result of the prior, as large as the patches.

    Attributes:
        pooled_width: P.
        image_width: E, or 0 where the config names none.
        effnet_channels: C, or 0 where the config names none.
    """

    embeds_guidance = False
    sample_size: tuple[int, int] | None = None

    def __init__(self, session: EngineSession, component: str) -> None:
        """Read the config; the engine is opened when first needed.

        Args:
            session: The engines.
            component: Name of the component: "prior" or "decoder".

        Raises:
            BundleError: The bundle has no such component, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        self.component = component
        config, subject = session.bundle.config(self.component), f"{self.component}/config.json"
        self.in_channels = integer(config, "in_channels", CHANNELS, subject=subject)
        self.out_channels = integer(config, "out_channels", CHANNELS, subject=subject)
        self.patch_size = integer(config, "patch_size", 1, subject=subject, maximum=MAX_SIDE)
        self.first_channels = min(integers(config, "block_out_channels", LEVELS, subject=subject))
        self.pooled_width = integer(config, "clip_text_pooled_in_channels", 1280, subject=subject)
        self.image_width = integer(config, "clip_image_in_channels", None, subject=subject) or 0
        self.effnet_channels = integer(config, "effnet_in_channels", None, subject=subject) or 0
        self._session = session

    @property
    def token_limit(self) -> int | None:
        """See `Denoiser`: any number."""
        return None

    @property
    def residual_inputs(self) -> tuple[TensorSpec, ...]:
        """See `Denoiser`: none."""
        return ()

    def latent_shape(self, batch: int, height: int, width: int, vae: AutoencoderKL) -> tuple[int, ...]:
        """See `Denoiser`."""
        return batch, self.in_channels, height // vae.scale_factor, width // vae.scale_factor

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:  # noqa: ARG002
        """See `Denoiser`: no schedule of it is shifted."""
        return None

    def embed_guidance(self, scale: float) -> Feeds:
        """See `Denoiser`; never called, `embeds_guidance` is False."""
        raise NotImplementedError

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; timesteps are from 1 to 0."""
        feeds = {"sample": sample, "timestep": np.asarray([timestep], np.float32), **conditioning}
        outputs = self._session.run(self.component, feeds)
        return only_output(outputs, self.component, (len(sample), self.out_channels, *sample.shape[2:]))
