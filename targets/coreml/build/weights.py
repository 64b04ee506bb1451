"""Writes constants of a layer: dense, with scales, or as indices into a palette."""

from dataclasses import dataclass, replace
from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.mil import types

from diffoundry.targets.coreml.build.cluster_weights import SMALLEST, palettize
from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.scratch_weights import in_scratch

__all__ = ["Dense", "Scaled", "Weight", "emit", "plain_constant"]

Array = npt.NDArray[Any]

_SUB_BYTE = {4: (types.np_int4_dtype, types.np_uint4_dtype), 8: (np.dtype(np.int8), np.dtype(np.uint8))}
"""Bits to the types, signed and unsigned, under which coremltools' builder stores so many bits a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dense:
    """A weight in floats.

    Attributes:
        array: float16 or float32.
        name: Name in the package.
        bits: Bits of the palette that it shall be stored with, or None.
    """

    array: Array
    name: str
    bits: int | None = None

    def transposed(self) -> "Dense":
        """Return the transposed matrix."""
        return replace(self, array=self.array.T)

    def as_kernel(self) -> "Dense":
        """Return a matrix (out, in) as the kernel (out, in, 1, 1) of a convolution."""
        return replace(self, array=self.array[:, :, None, None])


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaled:
    """A weight in integers: scale * (data - zero_point).

    Attributes:
        data: int8 or uint8; those of four bits lie in the lower half.
        scale: Of the rank of `data`; each of its sizes divides that of `data`. float16 or float32.
        zero_point: Like `scale`, of the type of `data`, or None for zero.
        bits: 4 or 8.
        name: Name in the package.
    """

    data: Array
    scale: Array
    zero_point: Array | None
    bits: int
    name: str

    def transposed(self) -> "Scaled":
        """Return the transposed matrix."""
        zero_point = None if self.zero_point is None else self.zero_point.T
        return replace(self, data=self.data.T, scale=self.scale.T, zero_point=zero_point)

    def as_kernel(self) -> "Scaled":
        """Return a matrix (out, in) as the kernel (out, in, 1, 1) of a convolution."""
        zero_point = None if self.zero_point is None else self.zero_point[:, :, None, None]
        return replace(
            self, data=self.data[:, :, None, None], scale=self.scale[:, :, None, None], zero_point=zero_point
        )

    @property
    def axis(self) -> int | None:
        """The axis that the scales run along, 0 for a single scale, or None when they form blocks."""
        if all(size == 1 for size in self.scale.shape):
            return 0
        long = [axis for axis, size in enumerate(self.scale.shape) if size > 1]
        whole = len(long) == 1 and self.scale.shape[long[0]] == self.data.shape[long[0]]
        return long[0] if whole else None


Weight = Dense | Scaled


def plain_constant(array: Array) -> Array:
    """An array in a type that a package has: no 64 bits, whose extremes become those of 32."""
    if array.dtype in (np.int64, np.uint64, np.uint32):
        limits = np.iinfo(np.int32)
        return np.clip(array, limits.min, limits.max).astype(np.int32)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def emit(weight: Weight, opset: Any) -> Any:
    """Add a weight to the program that is being built.

    Args:
        weight: Weight to store.
        opset: The deployment target, `coremltools.target`.
    """
    if isinstance(weight, Scaled):
        return _emit_scaled(weight, opset)
    if weight.bits is not None and weight.array.size >= SMALLEST:
        return _emit_palette(weight.array, weight.bits, weight.name, opset)
    return mb.const(val=in_scratch(weight.array), name=weight.name)


def _emit_scaled(weight: Scaled, opset: Any) -> Any:
    signed = weight.data.dtype == np.int8
    stored = _SUB_BYTE[weight.bits][0 if signed else 1]
    data = in_scratch(weight.data.astype(stored))
    scale = np.ascontiguousarray(weight.scale)
    if opset >= ct.target.iOS18:
        offset = None if weight.zero_point is None else np.ascontiguousarray(weight.zero_point).astype(stored)
        return mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset, name=weight.name)
    assert weight.axis is not None, "blocks of scales before iOS 18"
    scale = scale.reshape(-1) if scale.size > 1 else scale.reshape(())
    zero_point = data.dtype.type(0) if weight.zero_point is None else weight.zero_point.reshape(scale.shape)
    return mb.constexpr_affine_dequantize(
        quantized_data=data, zero_point=zero_point, scale=scale, axis=np.int32(weight.axis), name=weight.name
    )


def _emit_palette(array: Array, bits: int, name: str, opset: Any) -> Any:
    table, indices = palettize(array, bits)
    if opset >= ct.target.iOS18:
        stored = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
        lut = table.reshape((1,) * array.ndim + (table.size, 1))
        return mb.constexpr_lut_to_dense(indices=in_scratch(indices.astype(stored)), lut=lut, name=name)
    return mb.constexpr_lut_to_dense(
        indices=_packed(indices.reshape(-1), bits),
        lut=table,
        shape=np.array(array.shape, dtype=np.uint32),
        name=name,
    )


def _packed(indices: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Numbers of so many bits one after the other, the lowest bit first, filled up to whole bytes."""
    if bits == 8:
        return indices
    singles = np.unpackbits(indices[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(singles.reshape(-1), bitorder="little")
