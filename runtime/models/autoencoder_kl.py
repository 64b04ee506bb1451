"""AutoencoderKL: images to latents and back, with the arithmetic around both halves."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from diffoundry.runtime.engines.outputs import only_output
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer, integers, number, numbers, refuse
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER
from diffoundry.runtime.models.vae_tiling import Tiles, VaeTilingMixin
from diffoundry.runtime.random import Generator, randn_tensor

__all__ = ["SCALING_FACTOR", "AutoencoderKL"]

SCALING_FACTOR = 0.18215
"""Default of diffusers for `scaling_factor`, which the configs of the first checkpoints do not name."""

_MOST_LEVELS = 16
"""Most levels of a VAE, each of which halves the image."""

_INPUTS = {VAE_ENCODER: "sample", VAE_DECODER: "latent_sample"}


class AutoencoderKL(VaeTilingMixin):
    """Runs both halves of the VAE. Latents are (B, latent_channels, height / scale_factor, width / scale_factor).

    A scheduler's latents z and the VAE's own latents v: z = (v - shift_factor) scaling_factor, or with statistics
    z = (v - latents_mean) scaling_factor / latents_std.

    Attributes:
        scale_factor, own_factor: Pixels to a latent of a scheduler (diffusers: `vae_scale_factor`), and of the graphs.
        latent_channels: Channels of latents.
        scaling_factor: See above.
        shift_factor: See above; 0 without.
        first_channels: Least channels of its features at full size, which bound the memory of an image.
    """

    levels_key: ClassVar[str] = "block_out_channels"
    default_levels: ClassVar[tuple[int, ...]] = (64,)
    channels_key: ClassVar[str] = "latent_channels"
    default_channels: ClassVar[int] = 4
    default_scaling: ClassVar[float] = SCALING_FACTOR

    def __init__(self, session: EngineSession, *, normalize_latents: bool = False) -> None:
        """Read the config; engines are opened when first needed.

        Args:
            session: The engines.
            normalize_latents: True if `latents_mean` and `latents_std` count, where the config has both.

        Raises:
            BundleError: The bundle has no VAE decoder, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        self._session, self.recipe = session, manifest.recipe if (manifest := session.bundle.manifest) else None
        component = session.bundle.component(VAE_DECODER)
        config, subject = session.bundle.config(component), f"{component}/config.json"
        levels = integers(config, self.levels_key, self.default_levels, subject=subject)
        if len(levels) > _MOST_LEVELS:
            raise refuse(subject, self.levels_key, list(levels), f"at most {_MOST_LEVELS} levels")
        self._config = config
        self.scale_factor = self.own_factor = 2 ** (len(levels) - 1)
        self.first_channels = min(levels)
        self.latent_channels = integer(config, self.channels_key, self.default_channels, subject=subject)
        self.scaling_factor = number(
            config, "scaling_factor", self.default_scaling, subject=subject, minimum=1e-9, maximum=1e9
        )
        self.shift_factor = number(config, "shift_factor", None, subject=subject, minimum=-1e9, maximum=1e9) or 0.0
        mean, std = (
            numbers(config, key, self.latent_channels, subject=subject, zero=key == "latents_mean")
            for key in ("latents_mean", "latents_std")
        )
        self._statistics: list[FloatArray] | None = None
        if normalize_latents and mean is not None and std is not None:
            self._statistics = [np.asarray(one, np.float32).reshape(1, -1, 1, 1) for one in (mean, std)]

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

    def normalize(self, latents: FloatArray, *, statistics: bool = True) -> FloatArray:
        """Convert latents from the VAE's own scale to the scheduler's; `statistics` says whether they count."""
        if self._statistics is not None and statistics:
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

    @property
    def moments(self) -> int:
        """Channels of the encoder's output: means and variances."""
        return 2 * self.latent_channels

    def own_tiles(self, size: int | None = None, overlap: float | None = None) -> Tiles:
        """See `VaeTilingMixin`."""
        return Tiles.of(self._config, self.own_factor, size, overlap)

    def _call(self, half: str, array: FloatArray) -> FloatArray:
        component = self._session.bundle.component(half)
        outputs = self._session.run(component, {_INPUTS[half]: array})
        (rows, _, height, width), factor = array.shape, self.own_factor
        if half == VAE_DECODER:
            return only_output(outputs, component, (rows, None, height * factor, width * factor))
        return only_output(outputs, component, (rows, self.moments, height // factor, width // factor))
