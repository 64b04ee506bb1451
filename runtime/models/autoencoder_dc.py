"""AutoencoderDC (DC-AE): a VAE without a distribution of latents, and with many pixels to a latent."""

from fractions import Fraction
from typing import ClassVar

from diffoundry.runtime.models.deterministic_vae import DeterministicVae
from diffoundry.runtime.models.vae_tiling import Tiles

__all__ = ["DC_LEVELS", "AutoencoderDC"]

DC_LEVELS = (128, 256, 512, 512, 1024, 1024)
"""Default of diffusers for the channels of each level."""

_PIXELS = 512
"""Side of a tile; diffusers: `tile_sample_min_height`."""

_OVERLAP = Fraction(1, 8)
"""Part of a tile that the next one shares; diffusers: a `tile_sample_stride_height` of 448."""


class AutoencoderDC(DeterministicVae):
    """diffusers: `AutoencoderDC`. Chen et al. 2024, https://arxiv.org/abs/2410.10733."""

    levels_key: ClassVar[str] = "encoder_block_out_channels"
    default_levels: ClassVar[tuple[int, ...]] = DC_LEVELS
    default_channels: ClassVar[int] = 32
    default_scaling: ClassVar[float] = 1.0

    def own_tiles(self, size: int | None = None, overlap: float | None = None) -> Tiles:
        """See `VaeTilingMixin`."""
        return Tiles.of({"sample_size": _PIXELS}, self.scale_factor, size, _OVERLAP if overlap is None else overlap)
