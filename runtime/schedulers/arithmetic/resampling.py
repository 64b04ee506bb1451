"""Resizing of float arrays as `torch.nn.functional.interpolate(x, size=..., mode=...)` does it, without align_corners.

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

_CUBIC = -0.75  # torch's parameter A of the cubic kernel


def resample(x: FloatArray, size: Sequence[int], mode: str) -> FloatArray:
    """Resize the spatial axes.

    Args:
        x: (B, C, ...) with one to three spatial axes.
        size: new lengths of the spatial axes.
        mode: one of `MODES`.

    Raises:
        InputError: a mode that is not for this number of axes.
    """
    axes = x.ndim - 2
    if axes not in MODES[mode]:
        fit = ", ".join(name for name, counts in MODES.items() if axes in counts)
        raise InputError(f"resampling mode '{mode}' is not for {axes} spatial axes, expected one of {fit}.")
    for axis, length in enumerate(size, start=2):
        weights = _weights(mode, x.shape[axis], length, x.dtype)
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ weights.T, -1, axis)
    return np.ascontiguousarray(x)


def _weights(mode: str, source: int, target: int, dtype: np.dtype[Any]) -> FloatArray:
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
    if mode != "bicubic":
        position = np.maximum(position, 0.0)
    low = np.floor(position).astype(np.int64)
    offset = position - low.astype(dtype)
    taps = _cubic_taps(offset) if mode == "bicubic" else {0: 1 - offset, 1: offset}
    for shift, weight in taps.items():
        # the border pixel replaces those beyond it
        np.add.at(weights, (rows, np.clip(low + shift, 0, source - 1)), weight)
    return weights


def _cubic_taps(t: FloatArray) -> dict[int, FloatArray]:
    """Weights of the pixels at -1, 0, 1, 2 from the one below; Keys 1981, equation 4."""

    def near(d: FloatArray) -> FloatArray:
        return ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1

    def far(d: FloatArray) -> FloatArray:
        return ((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC

    return {-1: far(t + 1), 0: near(t), 1: near(1 - t), 2: far(2 - t)}


def _area_weights(source: int, target: int) -> FloatArray:
    """The mean over the source pixels that a target pixel touches."""
    weights = np.zeros((target, source))
    for row in range(target):
        start, stop = row * source // target, math.ceil((row + 1) * source / target)
        weights[row, start:stop] = 1.0 / (stop - start)
    return weights
