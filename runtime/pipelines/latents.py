"""Images to latents and back: the VAE's two halves with the arithmetic around them."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.pixels import postprocess
from diffoundry.runtime.pipelines.tiling import Tiles
from diffoundry.runtime.pipelines.tiny_tiling import TinyTiles
from diffoundry.runtime.random import Generator, randn_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SCALING_FACTOR", "LatentCodec"]

FloatArray = npt.NDArray[np.float32]

SCALING_FACTOR = 0.18215
"""What diffusers assumes when the VAE's config does not say, as those of the first checkpoints."""

_TINY = "AutoencoderTiny"
"""A VAE without a distribution of latents: its encoder gives them as they are."""

_CHANNELS = 4
"""The same, for `latent_channels`."""

_FEEDS = {"vae_encoder": "sample", "vae_decoder": "latent_sample"}
"""What each half takes; it gives one tensor."""


class LatentCodec:
    """Drives vae_encoder and vae_decoder of a bundle. Latents are (B, channels, height/factor, width/factor).

    Attributes:
        factor: Pixels to a latent.
        channels: Of a latent.
        scaling_factor: From the VAE's own scale to the denoiser's.
        tiles: The tiles in which larger images go through the VAE, or None to take them whole; diffusers:
            `vae.use_tiling`.
        slicing: Whether images go through the VAE one by one; diffusers: `vae.use_slicing`.
    """

    def __init__(self, components: EngineSession, *, standardizes: bool) -> None:
        """Read the config; engines are opened when first needed.

        Args:
            components: The engines.
            standardizes: Whether `latents_mean` and `latents_std` of the VAE count, where it has both.
        """
        config = components.bundle.config("vae_decoder")
        self._tiny = config.get("_class_name") == _TINY
        levels = config["decoder_block_out_channels" if self._tiny else "block_out_channels"]
        self.factor = 1 << (len(levels) - 1)
        self.channels: int = config.get("latent_channels", _CHANNELS)
        self.scaling_factor: float = config.get("scaling_factor", 1.0 if self._tiny else SCALING_FACTOR)
        self.tiles: Tiles | None = None
        self.slicing = False
        self._components = components
        self._statistics: tuple[FloatArray, FloatArray] | None = None
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if standardizes and mean is not None and std is not None:
            shape = (1, -1, 1, 1)
            self._statistics = np.asarray(mean, np.float32).reshape(shape), np.asarray(std, np.float32).reshape(shape)

    def sample(self, pixels: FloatArray, generator: Generator | Sequence[Generator]) -> FloatArray:
        """Latents drawn from what the encoder says of images, in the VAE's own scale; of a tiny one as it says.

        diffusers: `retrieve_latents` and `DiagonalGaussianDistribution.sample`.

        Args:
            pixels: (B, 3, H, W), -1 to 1.
            generator: One, or one for each image.
        """
        if self._tiny:
            return self._run("vae_encoder", pixels)
        mean, log_variance = np.split(self._run("vae_encoder", pixels), 2, axis=1)
        deviation = np.exp(np.float32(0.5) * np.clip(log_variance, -30.0, 20.0))
        latents: FloatArray = mean + deviation * randn_tensor(mean.shape, generator).astype(np.float32)
        return latents

    def mode(self, pixels: FloatArray) -> FloatArray:
        """The likeliest latents of images (B, 3, H, W), in the VAE's own scale."""
        said = self._run("vae_encoder", pixels)
        return said if self._tiny else np.split(said, 2, axis=1)[0]

    def draw(self, pixels: FloatArray, generator: Generator | Sequence[Generator]) -> None:
        """Draw the random numbers that `sample` would, and nothing else."""
        if self._tiny:
            return
        rows, _, height, width = pixels.shape
        randn_tensor((rows, self.channels, height // self.factor, width // self.factor), generator)

    def normalize(self, latents: FloatArray) -> FloatArray:
        """From the VAE's own scale to the denoiser's."""
        if self._statistics is None:
            return self.scaling_factor * latents
        mean, std = self._statistics
        return (latents - mean) * self.scaling_factor / std

    def decode(
        self, latents: FloatArray, output_type: str = "pil", *, standardized: bool = True
    ) -> "list[Image] | FloatArray":
        """The images that latents in the denoiser's scale stand for.

        Args:
            latents: (B, C, h, w).
            output_type: See `PipelineOutput.images`.
            standardized: Whether `latents_mean` and `latents_std` count, if they do at all.
        """
        if output_type == "latent":
            return latents
        own = self._denormalize(latents) if standardized else latents / self.scaling_factor
        return postprocess(self._run("vae_decoder", own), output_type)

    def own_tiles(self) -> Tiles:
        """The tiles that the VAE's config stands for.

        Raises:
            InputError: As `Tiles.of`.
        """
        config = self._components.bundle.config("vae_decoder")
        return TinyTiles.of(config, self.factor) if self._tiny else Tiles.of(config, self.factor)

    def check_tiles(self, height: int, width: int) -> None:
        """Refuse an image of this size in pixels when it goes in tiles that the engines do not take.

        Raises:
            InputError: As `Tiles.check`.
        """
        manifest = self._components.bundle.manifest
        if self.tiles is not None and manifest is not None:
            self.tiles.check((height, width), manifest.recipe.dims, manifest.recipe.buckets)

    def _denormalize(self, latents: FloatArray) -> FloatArray:
        if self._statistics is None:
            return latents / self.scaling_factor
        mean, std = self._statistics
        return latents * std / self.scaling_factor + mean

    def _run(self, half: str, array: FloatArray) -> FloatArray:
        """One half of the VAE, in slices and in tiles where they are on."""
        run, tiles = partial(self._call, half), self.tiles
        if tiles is not None:
            scale = self.factor if half == "vae_decoder" else 1
            self.check_tiles(array.shape[2] * scale, array.shape[3] * scale)
            run = partial(tiles.decode if half == "vae_decoder" else tiles.encode, run)
        if self.slicing:
            return np.concatenate([run(row) for row in np.split(array, len(array))])
        return run(array)

    def _call(self, half: str, array: FloatArray) -> FloatArray:
        (answer,) = self._components.run(half, {_FEEDS[half]: array}).values()
        return answer
