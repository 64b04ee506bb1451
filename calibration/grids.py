"""Rounding to the values that int8, uint8 and fp8 tensors can hold."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRIDS", "Grid", "round_e4m3"]

FloatArray = NDArray[np.floating[Any]]

Grid = Callable[[FloatArray, float, float], FloatArray]
"""(values, low, high) -> the values rounded to the grid over low..high, which always contains 0."""


def _round_int8(values: FloatArray, low: float, high: float) -> FloatArray:
    scale = max(-low, high) / 127 or 1.0
    return np.asarray(np.clip(np.rint(values / scale), -128, 127) * scale)


def _round_uint8(values: FloatArray, low: float, high: float) -> FloatArray:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    return np.asarray((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale)


def _round_fp8(values: FloatArray, low: float, high: float) -> FloatArray:
    scale = max(-low, high) / 448 or 1.0
    return round_e4m3(values / scale) * scale


def round_e4m3(values: FloatArray) -> FloatArray:
    """Round to the nearest 8-bit float with 4 exponent and 3 mantissa bits, ties to even, clipped to +-448.

    Micikevicius et al. 2022, "FP8 formats for deep learning", table 1, https://arxiv.org/abs/2209.05433: exponents from
    -6 on, below that steps of 2^-9.
    """
    _, exponents = np.frexp(values)
    steps = np.ldexp(1.0, np.maximum(exponents - 1, -6) - 3)
    return np.asarray(np.clip(np.rint(values / steps) * steps, -448, 448))


GRIDS: Mapping[str, Grid] = MappingProxyType({"int8": _round_int8, "uint8": _round_uint8, "fp8": _round_fp8})
"""Keyed by the names of `PrecisionFormat.activations`."""
