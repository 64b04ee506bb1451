"""Reads the weights of a graph one at a time, and converts large ones in pieces."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["convert_in_pieces", "read_weight"]

Array = npt.NDArray[Any]

_PIECE = 1 << 24
"""Elements that are converted at once."""


def read_weight(tensor: ir.TensorProtocol) -> Array:
    """Return the numbers of a tensor, for one use: nothing of the data file stays mapped.

    onnx_ir maps the whole file for each tensor, and keeps the pages that were read until the graph is gone.

    Args:
        tensor: Of any kind. The array may be the tensor's own: do not change it.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy())
    if tensor.dtype.bitwidth >= 8 and _is_plain(tensor):
        numbers: Array = np.fromfile(
            tensor.path, tensor.dtype.numpy().newbyteorder("<"), count=tensor.size, offset=tensor.offset or 0
        )
        return numbers.reshape(tensor.shape.numpy())
    copy = np.array(tensor.numpy())
    with contextlib.suppress(BufferError):  # someone still holds an array that onnx_ir mapped
        tensor.release()
    return copy


def convert_in_pieces(array: Array, dtype: npt.DTypeLike, convert: Callable[[Array], Array]) -> Array:
    """Convert an array number by number without copies of its size besides the result.

    Args:
        array: Any shape.
        dtype: Of the result.
        convert: Takes and returns one-dimensional pieces.
    """
    flat, made = np.ascontiguousarray(array).reshape(-1), np.empty(array.size, dtype)
    for start in range(0, flat.size, _PIECE):
        made[start : start + _PIECE] = convert(flat[start : start + _PIECE])
    return made.reshape(array.shape)


def _is_plain(tensor: ir.ExternalTensor) -> bool:
    """Return True for data in a plain file beside the graph; onnx_ir checks any other path."""
    path, location = Path(tensor.path), str(tensor.location)
    if Path(location).name != location or path.is_symlink():
        return False
    return path.stat().st_nlink == 1
