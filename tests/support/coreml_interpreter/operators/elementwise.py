"""Operators that take numbers one by one, reductions, quantisation."""

import math

import numpy as np
import torch

__all__ = ["OPERATORS"]

_CASTS = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_, "uint8": np.uint8,
          "int8": np.int8, "int16": np.int16, "uint16": np.uint16}  # fmt: skip


def wide(x):
    """Half precision as single precision, in which operators compute."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _unary(function):
    return lambda x: function(wide(x))


def _binary(function):
    return lambda x, y: function(wide(x), wide(y))


def real_div(x, y):
    """Whole numbers divide to whole numbers."""
    if x.dtype.kind == "i":
        return np.trunc(x / y).astype(np.int32)
    return wide(x) / wide(y)


def cast(x, dtype):
    if dtype == "bool":
        return x != 0
    with np.errstate(over="ignore"):
        return x.astype(_CASTS[dtype])


def gelu(x, mode="EXACT"):
    x = wide(x)
    if mode == "EXACT":
        return 0.5 * x * (1 + _erf(x / np.float32(math.sqrt(2))))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))
    return x * _sigmoid(np.float32(1.702) * x)


def _erf(x):
    return torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _sigmoid(x):
    return torch.sigmoid(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def softmax(x, axis=-1):
    x = wide(x)
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def clip(x, alpha, beta):
    return np.minimum(np.maximum(wide(x), wide(alpha)), wide(beta))


def inverse(x, epsilon=1e-4):
    return 1 / (wide(x) + np.float32(epsilon))


def rsqrt(x, epsilon=1e-12):
    return 1 / np.sqrt(wide(x) + np.float32(epsilon))


def log(x, epsilon=1e-45):
    return np.log(wide(x) + np.float32(epsilon))


def cumsum(x, axis=0, exclusive=False, reverse=False):
    """MIL: `exclusive` leaves a number itself out of its sum, `reverse` sums from the end."""
    x, axis = wide(x), int(axis)
    turned = np.flip(x, axis) if reverse else x
    sums = np.cumsum(turned, axis=axis, dtype=x.dtype)
    sums = sums - turned if exclusive else sums
    return np.flip(sums, axis) if reverse else sums


def _reduce(function):
    def reduce(x, axes=None, keep_dims=False):
        axes = None if axes is None else tuple(int(axis) for axis in np.atleast_1d(axes))
        return np.asarray(function(wide(x), axis=axes, keepdims=bool(keep_dims))).astype(wide(x).dtype)

    return reduce


def _length(x, axis, keepdims):
    return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims))


def reduce_argmax(x, axis=-1, keep_dims=False, output_dtype="int32"):
    """The reference does not say which of equals it is: take the last, so that nobody relies on the first."""
    axis = int(axis) % x.ndim
    last = x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis=axis)
    return (np.expand_dims(last, axis) if keep_dims else last).astype(output_dtype)


def _along(numbers, like, axis):
    """A scalar, or a vector along an axis, so that it broadcasts."""
    if numbers is None or np.ndim(numbers) == 0:
        return numbers
    shape = [1] * like.ndim
    shape[int(axis)] = -1
    return numbers.reshape(shape)


def quantize(input, scale, output_dtype, zero_point=None, axis=None):  # noqa: A002  # MIL's name
    limits = np.iinfo(output_dtype)
    zero = 0 if zero_point is None else _along(zero_point, input, axis).astype(np.float32)
    rounded = np.rint(wide(input) / wide(_along(scale, input, axis))) + zero
    return np.clip(rounded, limits.min, limits.max).astype(output_dtype)


def dequantize(input, scale, zero_point=None, axis=None):  # noqa: A002  # MIL's name
    zero = 0 if zero_point is None else _along(zero_point, input, axis).astype(np.float32)
    return (input.astype(np.float32) - zero) * wide(_along(scale, input, axis))


OPERATORS = {
    "abs": _unary(np.abs),
    "add": _binary(np.add),
    "cast": cast,
    "ceil": _unary(np.ceil),
    "clip": clip,
    "cumsum": cumsum,
    "cos": _unary(np.cos),
    "dequantize": dequantize,
    "equal": _binary(np.equal),
    "erf": _unary(_erf),
    "exp": _unary(np.exp),
    "exp2": _unary(np.exp2),
    "floor": _unary(np.floor),
    "floor_div": _binary(np.floor_divide),
    "gelu": gelu,
    "greater": _binary(np.greater),
    "greater_equal": _binary(np.greater_equal),
    "identity": lambda x: x,
    "inverse": inverse,
    "less": _binary(np.less),
    "less_equal": _binary(np.less_equal),
    "log": log,
    "logical_and": np.logical_and,
    "logical_not": np.logical_not,
    "logical_or": np.logical_or,
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "mod": _binary(np.mod),
    "mul": _binary(np.multiply),
    "not_equal": _binary(np.not_equal),
    "pow": _binary(np.power),
    "quantize": quantize,
    "real_div": real_div,
    "reduce_argmax": reduce_argmax,
    "reduce_l2_norm": _reduce(_length),
    "reduce_max": _reduce(np.max),
    "reduce_mean": _reduce(np.mean),
    "reduce_min": _reduce(np.min),
    "reduce_sum": _reduce(np.sum),
    "leaky_relu": lambda x, alpha: np.where(wide(x) >= 0, wide(x), wide(alpha) * wide(x)),
    "relu": lambda x: np.maximum(wide(x), 0),
    "round": _unary(np.rint),
    "rsqrt": rsqrt,
    "select": lambda cond, a, b: np.where(cond, a, b),
    "sigmoid": _unary(_sigmoid),
    "sign": _unary(np.sign),
    "silu": lambda x: wide(x) * _sigmoid(wide(x)),
    "sin": _unary(np.sin),
    "softmax": softmax,
    "sqrt": _unary(np.sqrt),
    "square": _unary(np.square),
    "sub": _binary(np.subtract),
    "tanh": _unary(np.tanh),
}
