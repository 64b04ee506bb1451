"""Lookups. From iOS 17 on, which `validate_indices` shows, negative indices are out of bounds."""

import numpy as np

__all__ = ["OPERATORS"]


def gather(x, indices, axis=0, batch_dims=0, validate_indices=None):
    _check(indices, validate_indices)
    axis, batch_dims = int(axis) % x.ndim, int(batch_dims)
    if batch_dims == 0:
        return np.take(x, indices, axis=axis)
    rows = [
        gather(part, which, axis - 1, batch_dims - 1, validate_indices) for part, which in zip(x, indices, strict=True)
    ]
    return np.stack(rows)


def gather_nd(x, indices, batch_dims=0, validate_indices=None):
    _check(indices, validate_indices)
    if int(batch_dims) == 0:
        return x[tuple(np.moveaxis(indices, -1, 0))]
    rows = [
        gather_nd(part, which, int(batch_dims) - 1, validate_indices) for part, which in zip(x, indices, strict=True)
    ]
    return np.stack(rows)


def gather_along_axis(x, indices, axis=0, validate_indices=None):
    _check(indices, validate_indices)
    return np.take_along_axis(x, indices.astype(np.int64), int(axis))


def _check(indices, validate_indices):
    if validate_indices is not None and np.any(indices < 0):
        raise IndexError("a negative index, which is out of bounds from iOS 17 on")


OPERATORS = {"gather": gather, "gather_along_axis": gather_along_axis, "gather_nd": gather_nd}
