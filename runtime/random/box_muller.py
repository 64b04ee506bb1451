"""The float32 Box-Muller transform of torch's CPU generator, to the last bit.

torch transforms 16 uniforms at a time with AVX2 code whose logarithm, sine and cosine are the polynomials of
Cephes (ATen/native/cpu/avx_mathfun.h, after J. Pommier and G. Garberoglio), not those of the C library.
Its compiler fuses each multiplication with the addition that follows. Here a fused step is computed in
float64, where the product of two float32 is exact, and rounded to float32 once; the sum is rounded in float64
first, which changes the float32 in about one case of 2**28.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "box_muller_float32", "box_muller_float64"]

BLOCK = 16
"""Uniforms that torch transforms together: 8 for the radii, then 8 for the angles."""

_Float32 = NDArray[np.float32]
_Float64 = NDArray[np.float64]


def _float32_constants(*values: float) -> tuple[float, ...]:
    return tuple(float(np.float32(value)) for value in values)


_LOG_POLYNOMIAL = _float32_constants(
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_SIN_POLYNOMIAL = _float32_constants(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS_POLYNOMIAL = _float32_constants(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
# log(2) and pi / 4 are split in parts with few bits, so that their multiples are exact.
_LN2_LOW, _LN2_HIGH = _float32_constants(-2.12194440e-4, 0.693359375)
_PI_4_PARTS = _float32_constants(0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)
_SQRT_HALF = np.float32(0.707106781186547524)
_FOUR_OVER_PI = np.float32(1.27323954473516)
_TWO_PI = np.float32(2 * np.pi)


class _Rounder:
    """Rounds float64 arrays of one shape to float32, in place, through one buffer."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._narrow = np.empty(shape, np.float32)

    def __call__(self, x: _Float64) -> _Float64:
        self._narrow[...] = x
        x[...] = self._narrow
        return x

    def polynomial(self, x: _Float64, coefficients: Sequence[float]) -> _Float64:
        """Horner's scheme with one rounding a step, the constant term last."""
        y = x * coefficients[0]
        y += coefficients[1]
        self(y)
        for coefficient in coefficients[2:]:
            y *= x
            y += coefficient
            self(y)
        return y


def _log(x: _Float32, rounded: _Rounder) -> _Float64:
    """Natural logarithm of normal float32 numbers above 0: float32 values in float64 storage.

    x = m * 2**e with m in [sqrt(1/2), sqrt(2)); log x = log(1 + (m - 1)) + e log 2.
    """
    bits = x.view(np.int32)
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).view(np.float32)
    small = mantissa < _SQRT_HALF
    e = ((bits >> 23) - 126 - small).astype(np.float64)
    m = mantissa.astype(np.float64)
    m += m * small
    m -= 1
    z = rounded(m * m)
    y = rounded.polynomial(m, _LOG_POLYNOMIAL)
    y *= m
    rounded(y)
    y *= z
    y += rounded(e * _LN2_LOW)
    rounded(y)
    z *= 0.5
    y -= z
    rounded(y)
    m += y
    rounded(m)
    e *= _LN2_HIGH
    m += e
    return rounded(m)


def _sin_cos(theta: _Float32, rounded: _Rounder) -> tuple[_Float64, _Float64]:
    """Sine and cosine of angles in [0, 2 pi]: float32 values in float64 storage.

    The octant j of the angle chooses the polynomials and the signs.
    """
    j = ((theta * _FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    octant = j.astype(np.float64)
    x = theta.astype(np.float64)
    for part in _PI_4_PARTS:
        x -= octant * part
        rounded(x)
    z = rounded(x * x)

    cos = rounded.polynomial(z, _COS_POLYNOMIAL)
    cos *= z
    rounded(cos)
    cos *= z
    cos -= z * 0.5
    rounded(cos)
    cos += 1
    rounded(cos)

    sin = rounded.polynomial(z, _SIN_POLYNOMIAL)
    sin *= z
    rounded(sin)
    sin *= x
    sin += x
    rounded(sin)

    swapped = (j & 2).astype(bool)
    quarter_sin, quarter_cos = np.where(swapped, cos, sin), np.where(swapped, sin, cos)
    quarter_sin *= 1 - ((j & 4) >> 1)
    quarter_cos *= 1 - (((j + 2) & 4) >> 1)
    return quarter_sin, quarter_cos


def box_muller_float32(uniforms: _Float32) -> _Float32:
    """Normals from uniforms, block by block, as torch's AVX2 `normal_fill` computes them.

    radius = sqrt(-2 log(1 - u1)), theta = 2 pi u2; a block holds radius cos(theta), then radius sin(theta).

    Args:
        uniforms: multiples of 2**-24 in [0, 1), (n,) with n a multiple of 16; per block 8 values u1, then 8 u2.

    Returns:
        Normals, float32, (n,).
    """
    blocks = uniforms.reshape(-1, 2, BLOCK // 2)
    rounded = _Rounder(blocks[:, 0].shape)
    radius = np.sqrt(_log(1 - blocks[:, 0], rounded).astype(np.float32) * np.float32(-2))
    sin, cos = _sin_cos(blocks[:, 1] * _TWO_PI, rounded)
    normals = np.empty_like(blocks)
    np.multiply(radius, cos.astype(np.float32), out=normals[:, 0])
    np.multiply(radius, sin.astype(np.float32), out=normals[:, 1])
    normals += 0.0  # torch adds the mean: -0 becomes 0
    return normals.reshape(-1)


def box_muller_float64(uniforms: _Float64) -> _Float64:
    """Normals from uniforms, block by block, as torch's float64 `normal_fill` computes them.

    torch takes logarithm, sine and cosine from the C library, NumPy its own: they differ in the last bits.

    Args:
        uniforms: multiples of 2**-53 in [0, 1), (n,) with n a multiple of 16; per block 8 values u1, then 8 u2.

    Returns:
        Normals, float64, (n,).
    """
    blocks = uniforms.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(-2 * np.log(1 - blocks[:, 0]))
    theta = 2 * np.pi * blocks[:, 1]
    normals = np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1)
    normals += 0.0
    return normals.reshape(-1)
