"""The float32 Box-Muller transform of torch's CPU generator, to the last bit.

torch transforms 16 uniforms at a time with AVX2 code whose logarithm, sine and cosine are the polynomials of
Cephes (ATen/native/cpu/avx_mathfun.h, after J. Pommier and G. Garberoglio), not those of the C library.
Its compiler fuses each multiplication with the addition that follows. Here a fused step is computed in float64,
where the product of two float32 is exact, and rounded to float32 once. The sum is rounded in float64 first. This
could change the float32 in one case of 2**28, but changes none of the 2**24 radii and none of the 2**24 directions
that exist (`tests/runtime/random/test_box_muller.py`).
"""

import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "CHUNK", "box_muller_float32", "box_muller_float64"]

BLOCK = 16
"""Uniforms that torch transforms together: 8 for the radii, then 8 for the angles."""

CHUNK = 1 << 15
"""Numbers transformed at once, so that the intermediate arrays stay in the processor's cache."""

_Float32 = NDArray[np.float32]
_Float64 = NDArray[np.float64]
_Int32 = NDArray[np.int32]
_Words = NDArray[np.uint32]


def _wide(value: float) -> _Float64:
    """A float32 constant as a float64 array, which NumPy reads faster than a number."""
    return np.array(np.float32(value), np.float64)


def _pair(cosine: float, sine: float) -> _Float64:
    return np.array([[np.float32(cosine)], [np.float32(sine)]], np.float64)


_LOG_POLYNOMIAL = tuple(
    _wide(value)
    for value in (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )
)  # fmt: skip
_COS_SIN_POLYNOMIALS = (
    _pair(2.443315711809948e-5, -1.9515295891e-4),
    _pair(-1.388731625493765e-3, 8.3321608736e-3),
    _pair(4.166664568298827e-2, -1.6666654611e-1),
)
# log(2) and pi / 4 are split in parts with few bits, so that their multiples are exact.
_LN2_LOW, _LN2_HIGH = np.float32(-2.12194440e-4), _wide(0.693359375)
_MINUS_PI_4 = (_wide(-0.78515625), _wide(-2.4187564849853515625e-4), _wide(-3.77489497744594108e-8))
_SQRT_HALF = np.float32(0.707106781186547524)
_FOUR_OVER_PI = np.float32(1.27323954473516)
_TWO_PI = np.float32(2 * np.pi)
_MINUS_HALF = np.float32(-0.5)
_SIGN = np.int32(-(2**31))


class _Scratch(threading.local):
    """Scratch memory for one thread's transform: allocating it each time would take a third of the time."""

    def __init__(self) -> None:
        self.wide = np.empty((4, CHUNK // 2), np.float64)
        self.narrow = np.empty((5, CHUNK // 2), np.float32)
        self.integers = np.empty((2, CHUNK // 2), np.int32)


_SCRATCH = _Scratch()


def box_muller_float32(words: _Words, normals: _Float32) -> None:
    """Compute normals from random words, block by block, as torch's AVX2 `normal_fill` does.

    radius = sqrt(-2 log(1 - u1)), theta = 2 pi u2; a block holds radius cos(theta), then radius sin(theta).

    Args:
        words: uint32, (n,), n a multiple of 16 up to `CHUNK`; the low 24 bits over 2**24 are the uniforms; per
            block 8 of u1, then 8 of u2. Overwritten.
        normals: the result, float32, (n,).
    """
    words &= np.uint32(2**24 - 1)
    pairs = len(words) // 2
    wide, narrow = _SCRATCH.wide[:, :pairs], _SCRATCH.narrow[:, :pairs]
    integers = _SCRATCH.integers[:, :pairs]
    radius, directions = narrow[0], narrow[1:3]
    blocks, halves = words.view(np.int32).reshape(-1, 2, BLOCK // 2), normals.reshape(-1, 2, BLOCK // 2)
    radius.reshape(-1, BLOCK // 2)[...] = blocks[:, 0]
    radius *= np.float32(-(2**-24))
    radius += np.float32(1)
    _log(radius, wide, narrow[3:], integers[0])
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    theta = narrow[3]
    theta.reshape(-1, BLOCK // 2)[...] = blocks[:, 1]
    theta *= np.float32(2**-24)
    theta *= _TWO_PI
    _cos_sin(theta, directions, narrow[4], wide, integers)
    for half, direction in enumerate(directions):
        np.multiply(radius.reshape(-1, BLOCK // 2), direction.reshape(-1, BLOCK // 2), out=halves[:, half])
    normals += np.float32(0)  # torch adds the mean: -0 becomes 0


def _fma(y: _Float64, x: _Float64, z: _Float64, rounded: _Float32) -> None:
    """Set `rounded` to y x + z, rounded once; y is overwritten."""
    np.multiply(y, x, out=y)
    np.add(y, z, out=y)
    rounded[...] = y


def _log(x: _Float32, wide: _Float64, narrow: _Float32, exponent: _Int32) -> None:
    """Replace normal float32 numbers above 0, (n,), by their natural logarithms; the rest is scratch.

    x = m 2**e with m in [sqrt(1/2), sqrt(2)), so log x = log(1 + d) + e log 2 with d = m - 1; and
    log(1 + d) = d - d**2 / 2 + d**3 P(d).
    """
    d, y = narrow
    wide_d, wide_y, e, other = wide
    bits = x.view(np.int32)
    np.right_shift(bits, 23, out=exponent)
    np.bitwise_and(bits, 0x007FFFFF, out=bits)
    np.bitwise_or(bits, 0x3F000000, out=bits)  # now x is in [1/2, 1)
    small = x < _SQRT_HALF
    exponent -= 126
    exponent -= small
    np.multiply(x, small, out=d)
    d += x
    d -= np.float32(1)

    wide_d[...] = d
    np.multiply(wide_d, _LOG_POLYNOMIAL[0], out=wide_y)
    np.add(wide_y, _LOG_POLYNOMIAL[1], out=wide_y)
    y[...] = wide_y
    for coefficient in _LOG_POLYNOMIAL[2:]:
        wide_y[...] = y
        _fma(wide_y, wide_d, coefficient, y)
    y *= d
    wide_y[...] = y
    square = x
    np.multiply(d, d, out=square)
    other[...] = square
    np.multiply(wide_y, other, out=wide_y)
    y[...] = exponent
    e[...] = y
    y *= _LN2_LOW
    other[...] = y
    np.add(wide_y, other, out=wide_y)
    y[...] = wide_y
    square *= _MINUS_HALF
    y += square
    y += d
    wide_y[...] = y
    _fma(e, _LN2_HIGH, wide_y, x)


def _cos_sin(theta: _Float32, directions: _Float32, square: _Float32, wide: _Float64, integers: _Int32) -> None:
    """Write cosine and sine of angles in [0, 2 pi], (n,), into `directions`, (2, n); the rest is scratch.

    theta = j pi / 4 + x with j even and x in [-pi / 4, pi / 4]; j chooses between the polynomials and the signs.
    sin x = x + x**3 S(x**2), cos x = 1 - x**2 / 2 + x**4 C(x**2).
    """
    j, mask = integers
    np.multiply(theta, _FOUR_OVER_PI, out=square)
    np.copyto(j, square, casting="unsafe")
    j += 1
    j &= ~1
    x, wide_square, octant, part = wide
    octant[...] = j
    x[...] = theta
    for pi_4_part in _MINUS_PI_4:  # only the last difference is inexact
        np.multiply(octant, pi_4_part, out=part)
        x += part
    reduced = theta
    reduced[...] = x
    x[...] = reduced
    np.multiply(reduced, reduced, out=square)
    wide_square[...] = square

    both = wide[2:]
    np.multiply(wide_square, _COS_SIN_POLYNOMIALS[0], out=both)
    both += _COS_SIN_POLYNOMIALS[1]
    directions[...] = both
    both[...] = directions
    _fma(both, wide_square, _COS_SIN_POLYNOMIALS[2], directions)
    directions *= square
    both[...] = directions
    wide_cos, wide_sin = both
    cos, sin = directions
    _fma(wide_sin, x, x, sin)
    np.multiply(wide_square, _MINUS_HALF, out=x)
    _fma(wide_cos, wide_square, x, cos)
    cos += np.float32(1)
    _turn(cos.view(np.int32), sin.view(np.int32), j, mask, square.view(np.int32))


def _turn(cos: _Int32, sin: _Int32, j: _Int32, mask: _Int32, difference: _Int32) -> None:
    """Exchange the bits of cosine and sine where j has bit 2, and set their signs; the rest is scratch."""
    np.left_shift(j, 30, out=mask)
    mask >>= 31
    np.bitwise_xor(cos, sin, out=difference)
    difference &= mask
    cos ^= difference
    sin ^= difference
    np.left_shift(j, 29, out=mask)
    mask &= _SIGN
    sin ^= mask
    j += 2
    j <<= 29
    j &= _SIGN
    cos ^= j


def box_muller_float64(uniforms: _Float64) -> _Float64:
    """Compute normals from uniforms, block by block, as torch's float64 `normal_fill` does.

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
