"""AutoencoderDC (DC-AE): a VAE without a distribution of latents, and with many pixels to a latent."""

from dataclasses import dataclass
from typing import ClassVar

from diffoundry.runtime.models.deterministic_vae import DeterministicVae
from diffoundry.runtime.models.vae_tiling import Tiles

__all__ = ["DC_LEVELS", "AutoencoderDC"]

DC_LEVELS = (128, 256, 512, 512, 1024, 1024)
"""Default of diffusers for the channels of each level."""

_PIXELS = 512
"""Side of a tile; diffusers: `tile_sample_min_height`."""


class AutoencoderDC(DeterministicVae):
    """diffusers: `AutoencoderDC`. Chen et al. 2024, https://arxiv.org/abs/2410.10733."""

    levels_key: ClassVar[str] = "encoder_block_out_channels"
    default_levels: ClassVar[tuple[int, ...]] = DC_LEVELS
    default_channels: ClassVar[int] = 32
    default_scaling: ClassVar[float] = 1.0

    def own_tiles(self) -> Tiles:
        """See `VaeTilingMixin`."""
        return _DCTiles(pixels=_PIXELS, latents=_PIXELS // self.scale_factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class _DCTiles(Tiles):
    """diffusers: `AutoencoderDC.tiled_decode` and `tiled_encode`, whose tiles start every 448 pixels."""

    overlaps: ClassVar[int] = 8
