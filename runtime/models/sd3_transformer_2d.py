"""SD3Transformer2DModel: the denoiser of Stable Diffusion 3."""

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["SD3Transformer2DModel"]


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
        """
        self.component = session.bundle.component(DENOISER)
        config = session.bundle.config(self.component)
        self.in_channels: int = config.get("in_channels", 16)
        self.out_channels: int = config.get("out_channels", 16)
        size: int | None = config.get("sample_size", 128)
        self.sample_size: tuple[int, int] | None = None if size is None else (size, size)
        self.patch_size: int = config.get("patch_size", 2)
        self.width: int = config.get("joint_attention_dim", 4096)
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
        return batch, self.in_channels, height // vae.scale_factor, width // vae.scale_factor

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
        (velocity,) = self._session.run(self.component, feeds).values()
        return velocity
