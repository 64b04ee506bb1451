"""AutoencoderTiny (TAESD): a VAE without a distribution of latents, and with tiles of its own kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.deterministic_vae import DeterministicVae
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.vae_tiling import Tiles, fitting_sizes, lengths, starts

__all__ = ["AutoencoderTiny", "TinyTiles"]

_PIXELS = 512
"""Side of a tile; diffusers: `tile_sample_min_size`."""

_MOST_CHANNELS = 16
"""Most channels of an image. diffusers takes their number for the number of levels when it cuts tiles."""

_OVERLAP = Fraction(1, 8)
"""A tile shares this part of its side with the next; diffusers: `tile_overlap_factor`."""

_LEAST_SHARED = 2
"""Least latents that tiles share: diffusers divides by their number less one."""


class AutoencoderTiny(DeterministicVae):
    """diffusers: `AutoencoderTiny`."""

    levels_key: ClassVar[str] = "decoder_block_out_channels"
    default_levels: ClassVar[tuple[int, ...]] = (64, 64, 64, 64)
    default_scaling: ClassVar[float] = 1.0

    def own_tiles(self, size: int | None = None, overlap: float | None = None) -> Tiles:
        """See `VaeTilingMixin`."""
        return TinyTiles.of(self._config, self.scale_factor, size, overlap)


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyTiles(Tiles):
    """diffusers: `AutoencoderTiny._tiled_decode` and `_tiled_encode`.

    Tiles of 512 pixels start every 448, even where only the shared part is left: an image of 512 x 512 has four.
    """

    @classmethod
    def of(
        cls, config: Mapping[str, Any], factor: int, size: int | None = None, overlap: float | Fraction | None = None
    ) -> Self:
        """Return the tiles of a VAE; by default 512 pixels, of which the next tile shares an eighth.

        Raises:
            InputError: It has other pixels to a latent than diffusers assumes for its tiles, or tiles of this size do
                not fit together.
        """
        taken = 2 ** integer(config, "out_channels", 3, subject="vae_decoder/config.json", maximum=_MOST_CHANNELS)
        if taken != factor:
            raise InputError(
                f"VAE tiling: got an AutoencoderTiny of {factor} pixels to a latent, expected {taken}, by which "
                f"diffusers cuts its tiles; leave VAE tiling off"
            )
        share = _OVERLAP if overlap is None else overlap
        sizes = fitting_sizes({}, factor, _PIXELS if size is None else size, share)
        if sizes["latents"] * sizes["overlap"] < _LEAST_SHARED:
            raise InputError(
                f"tile_sample_min_size: got {sizes['pixels']}, of which tiles share {sizes['overlap']}, expected tiles "
                f"that share {_LEAST_SHARED * factor} pixels or more; choose larger ones or a larger "
                f"tile_overlap_factor"
            )
        return cls(**sizes)

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """See `Tiles.sizes`."""
        heights, widths = (lengths(side, self.pixels, self.overlap) for side in size)
        return list(product(heights, widths))

    def _in_tiles(
        self, run: Callable[[FloatArray], FloatArray], array: FloatArray, side: int, result_side: int
    ) -> FloatArray:
        """Run on tiles and blend each into the results so far with its first lines."""
        height, width = array.shape[2:]
        extent = int(result_side * self.overlap)
        ramp = np.clip(np.arange(result_side, dtype=np.float32) / np.float32(extent - 1), 0, 1)
        even = np.ones_like(ramp)
        out: FloatArray | None = None
        for top, left in product(starts(height, side, self.overlap), starts(width, side, self.overlap)):
            tile = run(np.ascontiguousarray(array[:, :, top : top + side, left : left + side]))
            if out is None:
                sides = (length * result_side // side for length in (height, width))
                out = np.zeros((*tile.shape[:2], *sides), np.float32)
            rows, columns = tile.shape[2:]
            mask = ((ramp if top else even)[:, None] * (ramp if left else even)[None])[:rows, :columns]
            row, column = (start * result_side // side for start in (top, left))
            place = out[:, :, row : row + rows, column : column + columns]
            place[...] = mask * tile + (1 - mask) * place
        assert out is not None
        return out
