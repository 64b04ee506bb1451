"""AutoencoderKL: images to latents and back, with the arithmetic around both halves."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER
from diffoundry.runtime.models.vae_tiling import Tiles, VaeTilingMixin
from diffoundry.runtime.random import Generator, randn_tensor

__all__ = ["SCALING_FACTOR", "AutoencoderKL"]

SCALING_FACTOR = 0.18215
"""Default of diffusers for `scaling_factor`, which the configs of the first checkpoints do not name."""

_INPUTS = {VAE_ENCODER: "sample", VAE_DECODER: "latent_sample"}


class AutoencoderKL(VaeTilingMixin):
    """Runs both halves of the VAE. Latents are (B, latent_channels, height / scale_factor, width / scale_factor).

    A scheduler's latents z and the VAE's own latents v: z = (v - shift_factor) scaling_factor, or with statistics
    z = (v - latents_mean) scaling_factor / latents_std.

    Attributes:
        scale_factor: Pixels to a latent; diffusers: `vae_scale_factor`.
        latent_channels: Channels of latents.
        scaling_factor: See above.
        shift_factor: See above; 0 without.
    """

    levels_key: ClassVar[str] = "block_out_channels"
    default_levels: ClassVar[Sequence[int]] = (64,)
    default_scaling: ClassVar[float] = SCALING_FACTOR

    def __init__(self, session: EngineSession, *, normalize_latents: bool = False) -> None:
        """Read the config; engines are opened when first needed.

        Args:
            session: The engines.
            normalize_latents: True if `latents_mean` and `latents_std` count, where the config has both.
        """
        self._session, self.recipe = session, manifest.recipe if (manifest := session.bundle.manifest) else None
        config = self._config = session.bundle.config(session.bundle.component(VAE_DECODER))
        self.scale_factor = 2 ** (len(config.get(self.levels_key, self.default_levels)) - 1)
        self.latent_channels: int = config.get("latent_channels", 4)
        self.scaling_factor: float = config.get("scaling_factor", self.default_scaling)
        self.shift_factor: float = config.get("shift_factor") or 0.0
        statistics = config.get("latents_mean"), config.get("latents_std")
        self._statistics: list[FloatArray] | None = None
        if normalize_latents and None not in statistics:
            self._statistics = [np.asarray(one, np.float32).reshape(1, -1, 1, 1) for one in statistics]

    def sample(self, pixels: FloatArray, generator: Generator | Sequence[Generator]) -> FloatArray:
        """Draw latents of images, in the VAE's own scale.

        diffusers: `retrieve_latents` and `DiagonalGaussianDistribution.sample`.

        Args:
            pixels: (B, 3, H, W), -1 to 1.
            generator: One, or one for each image.
        """
        mean, log_variance = np.split(self._run(VAE_ENCODER, pixels), 2, axis=1)
        deviation = np.exp(np.float32(0.5) * np.clip(log_variance, -30.0, 20.0))
        latents: FloatArray = mean + deviation * randn_tensor(mean.shape, generator).astype(np.float32)
        return latents

    def mode(self, pixels: FloatArray) -> FloatArray:
        """Return the likeliest latents of images (B, 3, H, W), in the VAE's own scale."""
        return np.split(self._run(VAE_ENCODER, pixels), 2, axis=1)[0]

    def draw(self, pixels: FloatArray, generator: Generator | Sequence[Generator]) -> None:
        """Draw the random numbers that `sample` would draw, and nothing else."""
        rows, _, height, width = pixels.shape
        randn_tensor((rows, self.latent_channels, height // self.scale_factor, width // self.scale_factor), generator)

    def normalize(self, latents: FloatArray) -> FloatArray:
        """Convert latents from the VAE's own scale to the scheduler's."""
        if self._statistics is not None:
            mean, std = self._statistics
            return (latents - mean) * self.scaling_factor / std
        return self.scaling_factor * (latents - self.shift_factor if self.shift_factor else latents)

    def denormalize(self, latents: FloatArray, *, statistics: bool = True) -> FloatArray:
        """Convert latents from the scheduler's scale to the VAE's own; `statistics` says whether they count."""
        if self._statistics is not None and statistics:
            mean, std = self._statistics
            return latents * std / self.scaling_factor + mean
        own = latents / self.scaling_factor
        return own + self.shift_factor if self.shift_factor else own

    def decode(self, latents: FloatArray) -> FloatArray:
        """Return the images (B, 3, H, W), about -1 to 1, of latents in the VAE's own scale."""
        return self._run(VAE_DECODER, latents)

    def _run(self, half: str, array: FloatArray) -> FloatArray:
        run = partial(self._call, half)
        return self.run_in_parts(run, array, decodes=half == VAE_DECODER) if self.tiles or self.slicing else run(array)

    def own_tiles(self) -> Tiles:
        """See `VaeTilingMixin`."""
        return Tiles.of(self._config, self.scale_factor)

    def _call(self, half: str, array: FloatArray) -> FloatArray:
        (output,) = self._session.run(self._session.bundle.component(half), {_INPUTS[half]: array}).values()
        return output
