"""Compressed constants, in the form of iOS 16 and 17 and in that of iOS 18."""

import numpy as np

from coreml_interpreter.blobs import unpack_bits
from coreml_interpreter.operators.elementwise import wide

__all__ = ["OPERATORS"]


def constexpr_affine_dequantize(quantized_data, zero_point, scale, axis):
    """iOS 16: scale * (quantized_data - zero_point), with scalars or vectors along the axis."""
    shape = [1] * quantized_data.ndim
    shape[int(axis)] = -1
    zero, factor = (
        np.asarray(numbers, np.float32).reshape(shape if np.ndim(numbers) else ()) for numbers in (zero_point, scale)
    )
    return (factor * (quantized_data.astype(np.float32) - zero)).astype(wide(scale).dtype)


def constexpr_lut_to_dense(indices, lut, shape=None, vector_axis=None):
    """iOS 16: packed indices and a vector; iOS 18: indices of the result's rank, and tables for groups of them."""
    if shape is not None:
        bits = int(np.log2(lut.size))
        return lut[unpack_bits(indices, bits, int(np.prod(shape)))].reshape([int(size) for size in shape])
    groups, (entries, width) = lut.shape[:-2], lut.shape[-2:]
    whole = lut
    for axis, count in enumerate(groups):
        whole = np.repeat(whole, indices.shape[axis] // count, axis=axis)
    picked = np.take_along_axis(
        whole.reshape(*indices.shape, entries, width), indices[..., None, None].astype(np.int64), axis=-2
    )[..., 0, :]
    if width == 1:
        return picked[..., 0]
    axis = int(vector_axis) % indices.ndim
    sizes = list(indices.shape)
    sizes[axis] *= width
    return np.moveaxis(picked, -1, axis + 1).reshape(sizes)


def constexpr_blockwise_shift_scale(data, scale, offset=None):
    """iOS 18: scale * (data - offset), each of which holds for a block of the data."""
    result = data.astype(np.float32)
    if offset is not None:
        result = result - _blocks(offset.astype(np.float32), data.shape)
    return result * _blocks(wide(scale), data.shape)


def _blocks(numbers, shape):
    for axis, size in enumerate(shape):
        numbers = np.repeat(numbers, size // numbers.shape[axis], axis=axis)
    return numbers


OPERATORS = {
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_cast": lambda source_val, output_dtype: source_val.astype({"fp32": np.float32}[output_dtype]),
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
}
