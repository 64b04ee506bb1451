"""AutoencoderKLFlux2: images to normalized tokens of 2 x 2 latents, and back."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import number
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.flux_transformer_2d import PATCH, pack_latents, unpack_latents
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import VAE_DECODER
from diffoundry.runtime.models.weight_tables import read_table
from diffoundry.runtime.random import Generator, randn_tensor

__all__ = ["MEAN", "VARIANCE", "AutoencoderKLFlux2"]

MEAN, VARIANCE = "bn.running_mean", "bn.running_var"
"""Weights with the statistics of tokens, which the runtime applies."""


class AutoencoderKLFlux2(AutoencoderKL):
    """diffusers: `AutoencoderKLFlux2`, with `_patchify_latents` and the batch normalization of `Flux2Pipeline`.

    The VAE's own latents are (B, C, H / 8, W / 8). Those of the scheduler are tokens of 2 x 2 of them, less the mean
    and divided by the deviation of each of the 4 C channels, (B, 4 C, H / 16, W / 16).

    Attributes:
        scale_factor: Pixels to a token.
        latent_channels: Channels of a token.
        own_channels: Channels of the VAE's own latents.
    """

    default_channels = 32

    def __init__(self, session: EngineSession, *, normalize_latents: bool = False) -> None:
        """See `AutoencoderKL`.

        Raises:
            BundleError: The bundle has no VAE decoder, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session, normalize_latents=normalize_latents)
        self.own_channels = self.latent_channels
        self.scale_factor, self.latent_channels = self.own_factor * PATCH, self.own_channels * PATCH**2
        subject = f"{session.bundle.component(VAE_DECODER)}/config.json"
        self._epsilon = number(self._config, "batch_norm_eps", 1e-4, subject=subject, minimum=0.0, maximum=1e9)

    @cached_property
    def statistics(self) -> tuple[FloatArray, FloatArray]:
        """Mean and deviation of each channel of tokens, (1, 4 C, 1, 1).

        Raises:
            BundleError: The bundle lacks them.
        """
        bundle = self._session.bundle
        component, shape = bundle.component(VAE_DECODER), (self.latent_channels,)
        mean, variance = (read_table(bundle, component, name, shape) for name in (MEAN, VARIANCE))
        deviation = np.sqrt(variance + np.float32(self._epsilon))
        return mean.reshape(1, -1, 1, 1), deviation.reshape(1, -1, 1, 1)

    def normalize(self, latents: FloatArray, *, statistics: bool = True) -> FloatArray:  # noqa: ARG002
        """See `AutoencoderKL`: own latents (B, C, h, w) to tokens (B, 4 C, h / 2, w / 2)."""
        return self.standardize(pack_latents(latents).transpose(0, 3, 1, 2))

    def standardize(self, tokens: FloatArray) -> FloatArray:
        """Return tokens (B, 4 C, h, w) less their mean, divided by their deviation."""
        mean, deviation = self.statistics
        return (tokens - mean) / deviation

    def denormalize(self, latents: FloatArray, *, statistics: bool = True) -> FloatArray:  # noqa: ARG002
        """See `AutoencoderKL`: tokens to own latents."""
        mean, deviation = self.statistics
        return unpack_latents((latents * deviation + mean).transpose(0, 2, 3, 1))

    def draw(self, pixels: FloatArray, generator: Generator | Sequence[Generator]) -> None:
        """See `AutoencoderKL`."""
        rows, _, height, width = pixels.shape
        factor = self.own_factor
        randn_tensor((rows, self.own_channels, height // factor, width // factor), generator)

    @property
    def moments(self) -> int:
        """Channels of the encoder's output: means and variances."""
        return 2 * self.own_channels
