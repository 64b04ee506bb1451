"""AutoencoderKLQwenImage: a VAE of videos, here of single images, with statistics of each channel of its latents."""

from typing import ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.vae_tiling import Tiles

__all__ = ["AutoencoderKLQwenImage"]

_PIXELS = 256
"""Side of a tile; diffusers: `tile_sample_min_height`."""


_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
"""Defaults of diffusers for `latents_mean` and `latents_std`."""


class AutoencoderKLQwenImage(AutoencoderKL):
    """diffusers: `AutoencoderKLQwenImage`. Its statistics always count."""

    levels_key: ClassVar[str] = "dim_mult"
    default_levels: ClassVar[tuple[int, ...]] = (1, 2, 4, 4)
    channels_key: ClassVar[str] = "z_dim"
    default_channels: ClassVar[int] = 16
    default_scaling: ClassVar[float] = 1.0
    default_mean: ClassVar[tuple[float, ...]] = _MEAN
    default_std: ClassVar[tuple[float, ...]] = _STD

    def __init__(self, session: EngineSession, *, normalize_latents: bool = True) -> None:  # noqa: ARG002  # as others
        """See `AutoencoderKL`."""
        super().__init__(session, normalize_latents=True)
        self.first_channels = self.first_channels * int(self._config.get("base_dim", 96))
        if self._statistics is None:
            self._statistics = [
                np.asarray(one, np.float32).reshape(1, -1, 1, 1) for one in (self.default_mean, self.default_std)
            ]

    def normalize(self, latents: FloatArray, *, statistics: bool = True) -> FloatArray:  # noqa: ARG002
        """See `AutoencoderKL`."""
        return super().normalize(latents)

    def own_tiles(self, size: int | None = None, overlap: float | None = None) -> Tiles:
        """See `VaeTilingMixin`."""
        return Tiles.of({"sample_size": _PIXELS}, self.scale_factor, size, overlap)
