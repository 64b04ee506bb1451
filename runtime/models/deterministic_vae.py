"""Base of VAEs whose encoder returns the latents themselves."""

from collections.abc import Sequence

from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import VAE_ENCODER
from diffoundry.runtime.random import Generator

__all__ = ["DeterministicVae"]


class DeterministicVae(AutoencoderKL):
    """Runs both halves; the encoder gives no distribution, so nothing is drawn."""

    def sample(self, pixels: FloatArray, generator: Generator | Sequence[Generator]) -> FloatArray:  # noqa: ARG002
        """Return the latents of images (B, 3, H, W)."""
        return self._run(VAE_ENCODER, pixels)

    def mode(self, pixels: FloatArray) -> FloatArray:
        """Return the latents of images (B, 3, H, W)."""
        return self._run(VAE_ENCODER, pixels)

    def draw(self, pixels: FloatArray, generator: Generator | Sequence[Generator]) -> None:
        """Draw nothing, as `sample`."""

    @property
    def moments(self) -> int:
        """Channels of the encoder's output: the latents."""
        return self.latent_channels
