"""Converts weights to int8, int4 or fp8: their scales, and the numbers that DequantizeLinear reads back."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["WeightFormat", "per_block", "per_channel", "round_scales"]

Array = NDArray[Any]
FloatArray = NDArray[np.float32]

_LARGEST = {ir.DataType.INT8: 127.0, ir.DataType.FLOAT8E4M3FN: 448.0}
"""Largest number of each type with one scale a channel. int8's -128 is left out: kernels may negate a weight."""

_INT4 = (-8.0, 7.0)

_PIECE = 1 << 22
"""Weights that are converted at once."""

_CLIPS = tuple(1 - 0.025 * i for i in range(17))
"""Fractions of a block's range that are tried as its scale: with 16 levels, clipping the extremes a little pays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFormat:
    """The type of a quantized weight and the extent of its scales.

    Attributes:
        dtype: INT8, INT4 or FLOAT8E4M3FN.
        axis: DequantizeLinear's axis: the output channels, or with blocks the axis they run along.
        block: Weights per scale along `axis`, or None for one scale a channel.
    """

    dtype: ir.DataType
    axis: int
    block: int | None = None

    @property
    def attributes(self) -> dict[str, int]:
        """Attributes of DequantizeLinear."""
        return {"axis": self.axis} | ({} if self.block is None else {"block_size": self.block})

    def scales(self, weight: FloatArray, power: Array | None = None) -> FloatArray:
        """Compute the scales of a weight, positive, float32.

        Args:
            weight: Any shape.
            power: Mean square of the inputs multiplied by each index of `axis`, (weight.shape[axis],), or None when
                unmeasured; only blocks use it.

        Returns:
            (channels,), or with blocks the shape of the weight with `axis` divided by `block`. A channel of zeros
            has the scale 1.
        """
        if self.block is None:
            others = tuple(axis for axis in range(weight.ndim) if axis != self.axis)
            largest = np.maximum(weight.max(axis=others), -weight.min(axis=others))
            scales = largest / np.float32(_LARGEST[self.dtype])
            return np.where(scales > 0, scales, 1).astype(np.float32)
        found = []
        for start, stop in _pieces(weight.shape, self.axis, self.block):
            part = weight[_along(self.axis, start, stop)]
            shares = np.ones(1, np.float32) if power is None else power[start:stop].reshape(-1, self.block, 1)
            scales = _best_scales(_in_blocks(part, self.axis, self.block), shares.astype(np.float32))
            found.append(_from_blocks(scales, part, self.axis))
        return np.concatenate(found, self.axis)

    def quantize(self, weight: FloatArray, scales: FloatArray) -> Array:
        """Divide the weight by its scales, round to even and clip to the type, in NumPy's dtype for it."""
        made = np.empty(weight.shape, self.dtype.numpy())
        block = self.block or 1
        for start, stop in _pieces(weight.shape, self.axis, block):
            place = _along(self.axis, start, stop)
            if self.block is None:
                shape = [1] * weight.ndim
                shape[self.axis] = -1
                own = scales[start:stop].reshape(shape)
            else:
                own = np.repeat(scales[_along(self.axis, start // block, stop // block)], block, axis=self.axis)
            made[place] = self._round(weight[place] / own)
        return made

    def _round(self, units: FloatArray) -> FloatArray:
        if self.dtype == ir.DataType.FLOAT8E4M3FN:  # rounded by its type
            return units
        low, high = _INT4 if self.block is not None else (-_LARGEST[self.dtype], _LARGEST[self.dtype])
        return np.clip(np.rint(units), low, high)


def per_channel(dtype: ir.DataType, axis: int) -> WeightFormat:
    """Make a format with one scale for each index of `axis`, the output channels."""
    return WeightFormat(dtype=dtype, axis=axis)


def per_block(axis: int, size: int, block: int) -> WeightFormat:
    """Make an int4 format with one scale per `block` weights along the input axis, or fewer for blocks of one size."""
    fitting = next(length for length in range(min(block, size), 0, -1) if size % length == 0)
    return WeightFormat(dtype=ir.DataType.INT4, axis=axis, block=fitting)


def round_scales(scales: FloatArray, dtype: ir.DataType) -> FloatArray:
    """Round scales to their stored type, so that quantizing and reading back use the same scale; never zero."""
    smallest = np.finfo(np.float16 if dtype == ir.DataType.FLOAT16 else np.float32).smallest_subnormal
    return np.maximum(scales.astype(dtype.numpy()).astype(np.float32), np.float32(smallest))


def _pieces(shape: tuple[int, ...], axis: int, block: int) -> Iterator[tuple[int, int]]:
    """Divide an axis into ranges of whole blocks, of so many weights that their copies take little memory."""
    size = shape[axis]
    step = max(_PIECE * size // max(math.prod(shape), 1) // block, 1) * block
    for start in range(0, size, step):
        yield start, min(start + step, size)


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(start, stop))


def _in_blocks(weight: FloatArray, axis: int, block: int) -> FloatArray:
    """Reshape to (blocks, block, everything else)."""
    moved = np.moveaxis(weight, axis, 0)
    return moved.reshape(moved.shape[0] // block, block, -1)


def _from_blocks(scales: FloatArray, weight: FloatArray, axis: int) -> FloatArray:
    """Reshape scales (blocks, 1, everything else) to the layout of the weight."""
    others = [size for i, size in enumerate(weight.shape) if i != axis]
    return np.ascontiguousarray(np.moveaxis(scales.reshape(scales.shape[0], *others), 0, axis))


def _best_scales(blocks: FloatArray, shares: FloatArray) -> FloatArray:
    """Find the scale of each block with the least squared error, weights counted by share: (blocks, 1, rest)."""
    low, high = _INT4
    widest = np.maximum(blocks.max(axis=1, keepdims=True) / high, blocks.min(axis=1, keepdims=True) / low)
    widest = np.where(widest > 0, widest, 1).astype(np.float32)
    best, least = widest, np.full_like(widest, np.inf)
    for clip in _CLIPS:
        scale = widest * np.float32(clip)
        rounded = np.clip(np.rint(blocks / scale), low, high) * scale
        error = (shares * np.square(rounded - blocks)).sum(axis=1, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best
