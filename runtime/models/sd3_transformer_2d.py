"""SD3Transformer2DModel: the denoiser of Stable Diffusion 3."""

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.outputs import only_output
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import MAX_SIDE, integer
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.sample_size import read_sample_size

__all__ = ["SD3Transformer2DModel"]

_SAMPLE_SIZE = 128
"""Default of diffusers for `sample_size`."""


class SD3Transformer2DModel:
    """A `Denoiser` over latents (B, C, h, w), which it cuts into patches itself. diffusers: `SD3Transformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D) and "pooled_projections" (B, P).

    Attributes:
        width: D.
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
        self.in_channels = integer(config, "in_channels", 16, subject=subject)
        given = integer({"out_channels": 16, **config}, "out_channels", None, subject=subject)
        self.out_channels = self.in_channels if given is None else given
        self.sample_size = read_sample_size(config, _SAMPLE_SIZE, subject)
        self.patch_size = integer(config, "patch_size", 2, subject=subject, maximum=MAX_SIDE)
        self.width = integer(config, "joint_attention_dim", 4096, subject=subject)
        heads = integer(config, "num_attention_heads", 18, subject=subject)
        self.first_channels = heads * integer(config, "attention_head_dim", 64, subject=subject)
        self._session = session

    @property
    def token_limit(self) -> int | None:
        """See `Denoiser`."""
        shapes = {spec.name: spec.shape for spec in self._session.declared_inputs(self.component)}
        tokens = shapes.get("encoder_hidden_states", (None, None))[1]
        return tokens if isinstance(tokens, int) else None

    @property
    def residual_inputs(self) -> tuple[TensorSpec, ...]:
        """See `Denoiser`: none, its ControlNets are not exported."""
        return ()

    def latent_shape(self, batch: int, height: int, width: int, vae: AutoencoderKL) -> tuple[int, ...]:
        """See `Denoiser`."""
        return batch, vae.latent_channels, height // vae.scale_factor, width // vae.scale_factor

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:
        """See `Denoiser`: one for each patch."""
        return (shape[2] // self.patch_size) * (shape[3] // self.patch_size)

    def embed_guidance(self, scale: float) -> Feeds:
        """See `Denoiser`; never called, `embeds_guidance` is False."""
        raise NotImplementedError

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        time = np.asarray([timestep], np.float32)
        feeds = {"hidden_states": sample, "timestep": time, **conditioning}
        outputs = self._session.run(self.component, feeds)
        return only_output(outputs, self.component, (len(sample), self.out_channels, *sample.shape[2:]))
