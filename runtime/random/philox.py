"""Philox 4x32-10, the counter-based generator of cuRAND and torch's CUDA kernels.

Salmon, Moraes, Dror and Shaw 2011, Parallel Random Numbers: As Easy as 1, 2, 3, section 3.3 and table 2,
https://doi.org/10.1145/2063384.2063405. torch: ATen/core/PhiloxRNGEngine.h.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Words", "philox4x32"]

Words = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]
"""Four 32-bit words, each kept in uint64 so that products need no conversion."""

_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: Words, key: int) -> Words:
    """Encrypt counters to random words.

    One round maps (c0, c1, c2, c3) to (hi(B c2) ^ c1 ^ k0, lo(B c2), hi(A c0) ^ c3 ^ k1, lo(A c0)); after it the
    key moves on by the Weyl constants.

    Args:
        counter: four words of broadcastable shapes.
        key: 64 bits, k0 the low half.

    Returns:
        Four words of the shape that the counter broadcasts to.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(_ROUNDS):
        product0, product2 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (product2 >> _HALF) ^ c1 ^ np.uint64(k0), product2 & _LOW
        c2, c3 = (product0 >> _HALF) ^ c3 ^ np.uint64(k1), product0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3
