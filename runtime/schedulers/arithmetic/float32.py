"""torch's float32 arithmetic on schedules, in NumPy: same order of operations, every result correctly rounded.

Schedules are float32 in diffusers. `+ - * /` and comparisons are exact in both libraries. The elementary functions
(sqrt, exp, log, sigmoid) differ: torch takes them from the CPU maker's vector library, up to one unit in the
last place off and not the same on every machine. Here they are computed in float64 and rounded once.
"""

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array

__all__ = ["cumprod", "exp", "linspace", "log", "sigmoid", "sqrt"]


def linspace(start: float, stop: float, count: int) -> Float32Array:
    """`torch.linspace(start, stop, count, dtype=torch.float32)`, bit for bit.

    torch walks from both ends to the middle with a float32 increment and a fused multiply-add, which float64
    arithmetic followed by one rounding reproduces: a product of two float32 is exact in float64.
    """
    first, last = np.float64(np.float32(start)), np.float64(np.float32(stop))
    if count < 2:
        return np.full(count, first, dtype=np.float32)
    increment = np.float64((np.float32(last) - np.float32(first)) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float64)
    rising = first + increment * index
    falling = last - increment * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def cumprod(values: Float32Array) -> Float32Array:
    """`torch.cumprod` of float32 on the CPU, bit for bit: the running product is kept in float64."""
    return np.cumprod(values, dtype=np.float64).astype(np.float32)


def sqrt(values: Float32Array) -> Float32Array:
    """Square root, correctly rounded."""
    return np.sqrt(values.astype(np.float64)).astype(np.float32)


def exp(values: Float32Array) -> Float32Array:
    """Exponential, correctly rounded."""
    return np.exp(values.astype(np.float64)).astype(np.float32)


def log(values: Float32Array) -> Float32Array:
    """Natural logarithm, correctly rounded; -inf at zero."""
    with np.errstate(divide="ignore"):
        return np.log(values.astype(np.float64)).astype(np.float32)


def sigmoid(values: Float32Array) -> Float32Array:
    """1 / (1 + exp(-x)), correctly rounded."""
    return (1.0 / (1.0 + np.exp(-values.astype(np.float64)))).astype(np.float32)
