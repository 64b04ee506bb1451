"""The float32 Box-Muller transform of torch's CPU generator, to the last bit.

torch transforms 16 uniforms at a time with AVX2 code whose logarithm, sine and cosine are the polynomials of
Cephes (ATen/native/cpu/avx_mathfun.h, after J. Pommier and G. Garberoglio), not those of the C library.
Its compiler fuses each multiplication with the addition that follows. Here a fused step is computed in
float64, where the product of two float32 is exact, and rounded to float32 once; the sum is rounded in float64
first, which changes the float32 in about one case of 2**28.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "Float32BoxMuller", "box_muller_float64"]

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


class Float32BoxMuller:
    """Normals from uniforms, block by block, as torch's AVX2 `normal_fill` computes them.

    radius = sqrt(-2 log(1 - u1)), theta = 2 pi u2; a block holds radius cos(theta), then radius sin(theta).
    Works in memory of its own, which doubles its speed: one instance for one thread.

    Args:
        most: uniforms in the longest call to come, a multiple of 16.
    """

    def __init__(self, most: int) -> None:
        self._wide = np.empty((6, most // 2), np.float64)
        self._narrow = np.empty(most // 2, np.float32)

    def __call__(self, uniforms: _Float32) -> _Float32:
        """Transform a run of blocks.

        Args:
            uniforms: multiples of 2**-24 in [0, 1), (n,), n a multiple of 16; per block 8 values u1, then 8 u2.

        Returns:
            Normals, float32, (n,).
        """
        blocks = uniforms.reshape(-1, 2, BLOCK // 2)
        pairs = uniforms.size // 2
        scratch = self._wide[:, :pairs]
        rounded = _Rounder(self._narrow[:pairs])
        log = _log((1 - blocks[:, 0]).reshape(-1), scratch, rounded)
        radius = np.sqrt(log * np.float32(-2)).reshape(-1, BLOCK // 2)
        sin, cos = _sin_cos((blocks[:, 1] * _TWO_PI).reshape(-1), scratch, rounded)
        normals = np.empty_like(blocks)
        np.multiply(radius, cos.reshape(radius.shape), out=normals[:, 0])
        np.multiply(radius, sin.reshape(radius.shape), out=normals[:, 1])
        normals += 0.0  # torch adds the mean: -0 becomes 0
        return normals.reshape(-1)


class _Rounder:
    """Float32 arithmetic in place, on float64 arrays that hold float32 values."""

    def __init__(self, narrow: _Float32) -> None:
        self._narrow = narrow

    def __call__(self, y: _Float64) -> None:
        """Round y to float32."""
        self._narrow[...] = y
        y[...] = self._narrow

    def multiply(self, y: _Float64, x: _Float64) -> None:
        """Set y to y x."""
        y *= x
        self(y)

    def add(self, y: _Float64, x: _Float64 | float) -> None:
        """Set y to y + x."""
        y += x
        self(y)

    def fma(self, y: _Float64, x: _Float64, z: _Float64 | float) -> None:
        """Set y to y x + z, rounded once."""
        y *= x
        y += z
        self(y)

    def polynomial(self, y: _Float64, x: _Float64, coefficients: tuple[float, ...]) -> None:
        """Set y to the polynomial in x, by Horner's scheme, the constant term last."""
        np.multiply(x, coefficients[0], out=y)
        self.add(y, coefficients[1])
        for coefficient in coefficients[2:]:
            self.fma(y, x, coefficient)


def _log(x: _Float32, scratch: _Float64, rounded: _Rounder) -> _Float32:
    """Natural logarithm of normal float32 numbers above 0, (n,); scratch is (6, n).

    x = m 2**e with m in [sqrt(1/2), sqrt(2)), so log x = log(1 + d) + e log 2 with d = m - 1; and
    log(1 + d) = d - d**2 / 2 + d**3 P(d).
    """
    d, square, y, e, low, _ = scratch
    bits = x.view(np.int32)
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).view(np.float32)
    small = mantissa < _SQRT_HALF
    e[...] = (bits >> 23) - 126 - small
    mantissa += mantissa * small
    np.subtract(mantissa, 1, out=d)
    np.multiply(d, d, out=square)
    rounded(square)
    rounded.polynomial(y, d, _LOG_POLYNOMIAL)
    rounded.multiply(y, d)
    np.multiply(e, _LN2_LOW, out=low)
    rounded(low)
    rounded.fma(y, square, low)
    square *= -0.5
    rounded.add(y, square)
    rounded.add(d, y)
    e *= _LN2_HIGH
    d += e
    log: _Float32 = d.astype(np.float32)
    return log


def _sin_cos(theta: _Float32, scratch: _Float64, rounded: _Rounder) -> tuple[_Float32, _Float32]:
    """Sine and cosine of angles in [0, 2 pi], (n,); scratch is (6, n).

    theta = j pi / 4 + x with j even and x in [-pi / 4, pi / 4]; j chooses between the polynomials and the signs.
    sin x = x + x**3 S(x**2), cos x = 1 - x**2 / 2 + x**4 C(x**2).
    """
    x, square, sin, cos, octant, part = scratch
    j = ((theta * _FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    octant[...] = j
    x[...] = theta
    for pi_4_part in _PI_4_PARTS:
        np.multiply(octant, -pi_4_part, out=part)
        rounded.add(x, part)
    np.multiply(x, x, out=square)
    rounded(square)

    rounded.polynomial(cos, square, _COS_POLYNOMIAL)
    rounded.multiply(cos, square)
    np.multiply(square, -0.5, out=part)
    rounded.fma(cos, square, part)
    cos += 1

    rounded.polynomial(sin, square, _SIN_POLYNOMIAL)
    rounded.multiply(sin, square)
    sin *= x
    sin += x

    quarter_sin, quarter_cos = sin.astype(np.float32), cos.astype(np.float32)
    swapped = (j & 2).astype(bool)
    signed_sin = np.where(swapped, quarter_cos, quarter_sin)
    signed_cos = np.where(swapped, quarter_sin, quarter_cos)
    signed_sin.view(np.int32)[...] ^= (j & 4) << 29
    signed_cos.view(np.int32)[...] ^= ((j + 2) & 4) << 29
    return signed_sin, signed_cos


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
