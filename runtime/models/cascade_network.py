"""The denoisers of Würstchen and Stable Cascade: all that they have in common."""

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.outputs import only_output
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["CascadeNetwork"]


class CascadeNetwork:
    """A `Denoiser` of latents of any size, whose timesteps are from 1 to 0.

    Attributes:
        component: Name of the component.
    """

    embeds_guidance = False
    sample_size: tuple[int, int] | None = None

    in_channels: int
    out_channels: int
    patch_size: int
    first_channels: int

    def __init__(self, session: EngineSession, component: str) -> None:
        """Store the engines; the subclass reads the config.

        Args:
            session: The engines.
            component: Name of the component: "prior" or "decoder".
        """
        self.component = component
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
        """See `Denoiser`."""
        feeds = {"sample": sample, "timestep": np.asarray([timestep], np.float32), **conditioning}
        outputs = self._session.run(self.component, feeds)
        return only_output(outputs, self.component, (len(sample), self.out_channels, *sample.shape[2:]))
