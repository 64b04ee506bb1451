"""Resizing of float arrays as `torch.nn.functional.interpolate(x, size=..., mode=...)` does it.

Every mode is separable: one small matrix of weights for each axis.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray

__all__ = ["MODES", "resample"]

MODES = {
    "nearest": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
    "area": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
}
"""Each mode and the numbers of spatial axes that it is for."""

_REACH = {"bilinear": 1, "bicubic": 2}
"""Modes with an antialias filter, and the pixels to each side of a target pixel that it reads where it enlarges."""

_CUBIC = -0.75
_SMOOTH_CUBIC = -0.5
"""torch's parameter A of the cubic kernel, without and with antialias."""


def resample(
    x: FloatArray, size: Sequence[int], mode: str, *, align_corners: bool = False, antialias: bool = False
) -> FloatArray:
    """Resize the spatial axes.

    Args:
        x: (B, C, ...) with one to three spatial axes.
        size: new lengths of the spatial axes.
        mode: one of `MODES`.
        align_corners: True if the centres of the outermost pixels of source and target coincide; for the modes
            "linear", "bilinear", "trilinear" and "bicubic". With antialias torch takes the scale of such a grid, but
            the centres of the other.
        antialias: True to widen the kernel where an axis shrinks; for the modes "bilinear" and "bicubic".

    Raises:
        InputError: a mode that is not for this number of axes.
    """
    axes = x.ndim - 2
    if axes not in MODES[mode]:
        fit = ", ".join(name for name, counts in MODES.items() if axes in counts)
        raise InputError(f"resampling mode '{mode}' is not for {axes} spatial axes, expected one of {fit}.")
    for axis, length in enumerate(size, start=2):
        if antialias:
            weights = _smooth_weights(mode, x.shape[axis], length, x.dtype, align_corners=align_corners)
        else:
            weights = _weights(mode, x.shape[axis], length, x.dtype, align_corners=align_corners)
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ weights.T, -1, axis)
    return np.ascontiguousarray(x)


def _weights(mode: str, source: int, target: int, dtype: np.dtype[Any], *, align_corners: bool) -> FloatArray:
    """Weights of each source pixel in each target pixel, (target, source).

    Positions are computed in the dtype of the pixels, as torch does it: their rounding decides which pixel is nearest.
    """
    if mode == "area":
        return _area_weights(source, target).astype(dtype)
    weights = np.zeros((target, source), dtype=dtype)
    rows = np.arange(target)
    scale = dtype.type(source) / dtype.type(target)
    centre = (rows.astype(dtype) + 0.5) * scale
    if mode.startswith("nearest"):
        position = centre if mode == "nearest-exact" else rows.astype(dtype) * scale
        weights[rows, np.minimum(position.astype(np.int64), source - 1)] = 1.0
        return weights
    position = centre - 0.5
    if align_corners:
        position = rows.astype(dtype) * (dtype.type(source - 1) / dtype.type(max(target - 1, 1)))
    if mode != "bicubic":
        position = np.maximum(position, 0.0)
    low = np.floor(position).astype(np.int64)
    offset = position - low.astype(dtype)
    taps = _cubic_taps(offset) if mode == "bicubic" else {0: 1 - offset, 1: offset}
    for shift, weight in taps.items():
        # the border pixel replaces those beyond it
        np.add.at(weights, (rows, np.clip(low + shift, 0, source - 1)), weight)
    return weights


def _smooth_weights(mode: str, source: int, target: int, dtype: np.dtype[Any], *, align_corners: bool) -> FloatArray:
    """Weights of a kernel as wide as a target pixel, or as a source pixel where those are larger.

    Centres are rounded to the dtype of the pixels. torch: `HelperInterpBase::_compute_indices_min_size_weights_aa`.
    """
    scale = dtype.type(source) / dtype.type(target)
    if align_corners:
        scale = dtype.type(source - 1) / dtype.type(target - 1) if target > 1 else dtype.type(0)
    wide = max(scale, dtype.type(1))
    centre = ((np.arange(target)[:, None] + 0.5) * np.float64(scale)).astype(dtype)
    pixels = np.arange(source, dtype=dtype)
    reach = _REACH[mode] * wide
    first, stop = (np.trunc((centre + sign * reach).astype(np.float64) + 0.5) for sign in (-1, 1))
    distance = np.abs(((pixels - centre).astype(np.float64) + 0.5) * np.float64(1 / wide)).astype(dtype)
    kernel = _cubic(distance, _SMOOTH_CUBIC) if mode == "bicubic" else np.maximum(1 - distance, 0)
    weights = np.where((pixels >= first) & (pixels < stop), kernel, 0).astype(dtype)
    normalized: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return normalized


def _cubic(distance: FloatArray, a: float) -> FloatArray:
    """Cubic kernel at distances of at least 0; Keys 1981, equation 4."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0)).astype(distance.dtype)


def _cubic_taps(t: FloatArray) -> dict[int, FloatArray]:
    """Weights of the pixels at -1, 0, 1, 2 from the one below."""
    return {shift: _cubic(np.abs(t - shift), _CUBIC) for shift in (-1, 0, 1, 2)}


def _area_weights(source: int, target: int) -> FloatArray:
    """The mean over the source pixels that a target pixel touches."""
    weights = np.zeros((target, source))
    for row in range(target):
        start, stop = row * source // target, math.ceil((row + 1) * source / target)
        weights[row, start:stop] = 1.0 / (stop - start)
    return weights
