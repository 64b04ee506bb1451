"""DiTTransformer2DModel: the denoiser of DiT, a transformer over patches of latents, with classes."""

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.outputs import only_output
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import MAX_SIDE, integer
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.sample_size import read_sample_size

__all__ = ["DiTTransformer2DModel"]

_SAMPLE_SIZE = 32
"""Default of diffusers for `sample_size`."""


class DiTTransformer2DModel:
    """A `Denoiser` over latents (B, C, h, w), which it cuts into patches itself. diffusers: `DiTTransformer2DModel`.

    Its conditioning: "class_labels", int32 (B,).

    Attributes:
        class_count: Number of classes; the number after the last is that of no class.
    """

    embeds_guidance = False

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        self.component = session.bundle.component(DENOISER)
        config = session.bundle.config(self.component)
        subject = f"{self.component}/config.json"
        self.in_channels = integer(config, "in_channels", 4, subject=subject)
        given = integer(config, "out_channels", None, subject=subject)
        self.out_channels = self.in_channels if given is None else given
        self.sample_size = read_sample_size(config, _SAMPLE_SIZE, subject)
        self.patch_size = integer(config, "patch_size", 2, subject=subject, maximum=MAX_SIDE)
        heads = integer(config, "num_attention_heads", 16, subject=subject)
        self.first_channels = heads * integer(config, "attention_head_dim", 72, subject=subject)
        self.class_count = integer(config, "num_embeds_ada_norm", 1000, subject=subject)
        self._session = session

    @property
    def token_limit(self) -> int | None:
        """See `Denoiser`: it reads no text."""
        return None

    @property
    def residual_inputs(self) -> tuple[TensorSpec, ...]:
        """See `Denoiser`: none."""
        return ()

    def latent_shape(self, batch: int, height: int, width: int, vae: AutoencoderKL) -> tuple[int, ...]:
        """See `Denoiser`."""
        return batch, self.in_channels, height // vae.scale_factor, width // vae.scale_factor

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:  # noqa: ARG002
        """See `Denoiser`: no schedule of DiT is shifted."""
        return None

    def embed_guidance(self, scale: float) -> Feeds:
        """See `Denoiser`; never called, `embeds_guidance` is False."""
        raise NotImplementedError

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        feeds = {"hidden_states": sample, "timestep": np.asarray([timestep], np.float32), **conditioning}
        outputs = self._session.run(self.component, feeds)
        return only_output(outputs, self.component, (len(sample), self.out_channels, *sample.shape[2:]))
