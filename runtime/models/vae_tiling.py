"""Overlapping tiles for the VAE, blended where they overlap: large images in bounded memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bundle.specs import DimSpec, Recipe
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import MAX_SIDE, shorten

__all__ = ["Tiles", "VaeTilingMixin", "fitting_sizes", "lengths", "starts"]

FloatArray = npt.NDArray[np.float32]

_SAMPLE_SIZE = 32
"""Default of diffusers for `sample_size`, in pixels."""

_OVERLAP = Fraction(1, 4)
"""Default of diffusers for `tile_overlap_factor`: a tile shares this part of its side with the next."""

_FINEST = 1000
"""Largest denominator of an overlap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """Sizes of tiles. diffusers: `AutoencoderKL.tiled_decode` and `_tiled_encode`.

    Attributes:
        pixels: Side of a tile of an image; diffusers: `tile_sample_min_size`.
        latents: Side of the same tile in latents; diffusers: `tile_latent_min_size`.
        overlap: A tile shares this part of its side with the next; diffusers: `tile_overlap_factor`.
    """

    pixels: int
    latents: int
    overlap: Fraction = _OVERLAP

    @classmethod
    def of(
        cls, config: Mapping[str, Any], factor: int, size: int | None = None, overlap: float | Fraction | None = None
    ) -> Self:
        """Return the tiles of a VAE.

        Args:
            config: Of the VAE.
            factor: Pixels to a latent.
            size: Side of a tile in pixels, or None for the `sample_size` of the config.
            overlap: Part of a tile that the next one shares, or None for 0.25.

        Raises:
            InputError: Tiles of this size do not fit together.
        """
        return cls(**fitting_sizes(config, factor, size, overlap))

    def check(self, size: tuple[int, int], dims: Mapping[str, DimSpec], buckets: Sequence[tuple[int, int]]) -> None:
        """Refuse an image with a tile that the engines do not take.

        Args:
            size: Height and width of the image in pixels.
            dims: Sizes that the bundle's engines take, from its recipe.
            buckets: The only sizes (height, width) that they take, from its recipe; empty for all within `dims`.

        Raises:
            InputError: A tile has another size; the message names every size needed.
        """
        needed = self.sizes(size)
        if needed == [size]:
            return
        lacking = [tile for tile in needed if (tile not in buckets if buckets else not _allowed(tile, dims))]
        if lacking:
            raise InputError(
                f"VAE tiling: got tiles of {_list(lacking)} for an image of {_list([size])}, which this bundle has no "
                f"engines for; export with free sizes or with --buckets {_list([size, *needed], ',')}, or leave VAE "
                f"tiling off"
            )

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the different tiles of an image of this size (height, width) in pixels; its own size for one tile."""
        if max(size) <= self.pixels:
            return [size]
        heights, widths = (lengths(side, self.pixels, self.overlap) for side in size)
        return list(product(heights, widths))

    def decode(self, run: Callable[[FloatArray], FloatArray], latents: FloatArray) -> FloatArray:
        """Return images (B, 3, H, W) of latents (B, C, h, w), by calls of `run` on at most a tile."""
        return self._in_tiles(run, latents, self.latents, self.pixels)

    def encode(self, run: Callable[[FloatArray], FloatArray], pixels: FloatArray) -> FloatArray:
        """Return moments (B, 2 C, h, w) of images (B, 3, H, W), by calls of `run` on at most a tile."""
        return self._in_tiles(run, pixels, self.pixels, self.latents)

    def _in_tiles(
        self, run: Callable[[FloatArray], FloatArray], array: FloatArray, side: int, result_side: int
    ) -> FloatArray:
        """Run on tiles and join the results; two rows of tiles are in memory at once.

        Args:
            run: From a tile (B, C, h, w), sides of at most `side`, to its result, sides of `result_side / side` times
                that.
            array: (B, C, H, W); an array that fits into one tile is run as it is.
            side: Of a tile.
            result_side: Of the result of a tile.
        """
        if max(array.shape[2:]) <= side:
            return run(array)
        height, width = array.shape[2:]
        extent = int(result_side * self.overlap)
        keep = result_side - extent
        above: list[FloatArray] = []
        bands = []
        for top in starts(height, side, self.overlap):
            row: list[FloatArray] = []
            for index, left in enumerate(starts(width, side, self.overlap)):
                tile = run(np.ascontiguousarray(array[:, :, top : top + side, left : left + side]))
                if above:
                    tile = _blend(above[index], tile, extent, axis=2)
                if row:
                    tile = _blend(row[-1], tile, extent, axis=3)
                row.append(tile)
            bands.append(np.concatenate([tile[:, :, :keep, :keep] for tile in row], axis=3))
            above = row
        return np.concatenate(bands, axis=2)


class VaeTilingMixin:
    """The part of a VAE wrapper that keeps memory small: tiles and slices, both off at first.

    An image under way follows the setting at the time of its decoding.

    Attributes:
        tiles: Tiles in which large images go through the VAE; None takes them whole.
        slicing: True if images go through the VAE one by one.
        scale_factor: Pixels to a latent.
        recipe: Of the bundle, with the sizes of its engines; None without a manifest.
    """

    tiles: Tiles | None = None
    slicing: bool = False
    scale_factor: int
    recipe: Recipe | None

    def own_tiles(self, size: int | None = None, overlap: float | None = None) -> Tiles:
        """Return the tiles of this VAE.

        Args:
            size: Side of a tile in pixels, or None for the one that diffusers chooses.
            overlap: Part of a tile that the next one shares, or None for the one that diffusers chooses.

        Raises:
            InputError: These sizes, or those of its config, make no tiles.
        """
        raise NotImplementedError

    def enable_tiling(self, tile_sample_min_size: int | None = None, tile_overlap_factor: float | None = None) -> None:
        """Process images larger than a tile in overlapping tiles. diffusers: `enable_tiling`.

        Memory then grows with a tile and no longer with the image. The image changes, because no tile sees the others.

        Args:
            tile_sample_min_size: Side of a tile in pixels. None: the VAE's `sample_size`, or what diffusers has for its
                class. diffusers: the attribute of this name, with `tile_latent_min_size`; for some classes
                `tile_sample_min_height` and `tile_sample_min_width`.
            tile_overlap_factor: Part of a tile that the next one shares, 0 to less than 1. None: that of diffusers.
                diffusers: the attribute of this name; for some classes `tile_sample_stride_height` and
                `tile_sample_stride_width`, which are a tile without the shared part.

        Raises:
            InputError: Tiles of this size do not fit together.
        """
        self.tiles = self.own_tiles(tile_sample_min_size, tile_overlap_factor)

    def disable_tiling(self) -> None:
        """Process images whole again."""
        self.tiles = None

    def enable_slicing(self) -> None:
        """Process several images one by one. diffusers: `enable_slicing`."""
        self.slicing = True

    def disable_slicing(self) -> None:
        """Process several images together again."""
        self.slicing = False

    def check_tiles(self, height: int, width: int) -> None:
        """Refuse an image of this size in pixels whose tiles the engines do not take.

        Raises:
            InputError: As `Tiles.check`.
        """
        if self.tiles is not None and self.recipe is not None:
            self.tiles.check((height, width), self.recipe.dims, self.recipe.buckets)

    def run_in_parts(self, run: Callable[[FloatArray], FloatArray], array: FloatArray, *, decodes: bool) -> FloatArray:
        """Run one half of the VAE in slices and in tiles, where they are on."""
        if self.tiles is not None:
            scale = self.scale_factor if decodes else 1
            self.check_tiles(array.shape[2] * scale, array.shape[3] * scale)
            run = partial(self.tiles.decode if decodes else self.tiles.encode, run)
        if self.slicing:
            return np.concatenate([run(row) for row in np.split(array, len(array))])
        return run(array)


def _blend(before: FloatArray, tile: FloatArray, extent: int, axis: int) -> FloatArray:
    """Blend the first `extent` lines of a tile with the last ones of the tile before it.

    diffusers: `AutoencoderKL.blend_v` (axis 2) and `blend_h` (axis 3). Where the tile is shorter than `extent`, they
    take the very last lines of the tile before it, not those of the same place; so do we.
    """
    extent = min(tile.shape[axis], extent)  # no tile is shorter than the next
    if extent == 0:
        return tile
    share = np.arange(extent) / extent
    blended = tile.copy()
    lines, last = np.moveaxis(blended, axis, -1)[..., :extent], np.moveaxis(before, axis, -1)[..., -extent:]
    lines[...] = last * (1 - share).astype(np.float32) + lines * share.astype(np.float32)
    return blended


def fitting_sizes(
    config: Mapping[str, Any], factor: int, size: int | None, overlap: float | Fraction | None
) -> dict[str, Any]:
    """Return the attributes of tiles that fit together: shared parts are whole latents. Arguments as `Tiles.of`."""
    share = _OVERLAP if overlap is None else overlap
    if isinstance(share, bool) or not isinstance(share, int | float | Fraction) or not 0 <= share < 1:
        raise InputError(
            f"tile_overlap_factor: got {shorten(share)}, expected a number from 0 to less than 1, the part of a tile "
            f"that the next one shares"
        )
    share = Fraction(share).limit_denominator(_FINEST)
    side = config.get("sample_size", _SAMPLE_SIZE) if size is None else size
    multiple = share.denominator * factor
    if type(side) is int and multiple <= side <= MAX_SIDE and side % multiple == 0:
        return {"pixels": side, "latents": side // factor, "overlap": share}
    if size is None and overlap is None:
        raise InputError(
            f"VAE tiling: got sample_size {shorten(side)} in the VAE's config, expected a multiple of {multiple}, "
            f"so that tiles fit together; choose the size of a tile, change the checkpoint and export again, or leave "
            f"VAE tiling off"
        )
    raise InputError(
        f"tile_sample_min_size: got {shorten(side)}, expected a multiple of {multiple} of at most {MAX_SIDE}, so that "
        f"tiles that share {share} of a side fit together"
    )


def starts(length: int, side: int, overlap: Fraction) -> range:
    """Return the starts of tiles along a side, when each shares this part of itself with the next."""
    return range(0, length, side - int(side * overlap))


def lengths(length: int, side: int, overlap: Fraction) -> list[int]:
    """Return the different lengths of tiles along a side: the last are shorter."""
    return list(dict.fromkeys(min(side, length - start) for start in starts(length, side, overlap)))


def _allowed(tile: tuple[int, int], dims: Mapping[str, DimSpec]) -> bool:
    sides = zip(("height", "width"), tile, strict=True)
    return all(dims[name].refusal(value) is None for name, value in sides if name in dims)


def _list(sizes: Sequence[tuple[int, int]], mark: str = ", ") -> str:
    return mark.join(dict.fromkeys(f"{width}x{height}" for height, width in sizes))
