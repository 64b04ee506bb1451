"""Normalisation layers."""

import numpy as np

from coreml_interpreter.operators.elementwise import wide

__all__ = ["OPERATORS"]

_EPSILON = np.float32(1e-5)


def _normal(x, axes, epsilon):
    x = wide(x).astype(np.float64)
    centred = x - x.mean(axis=axes, keepdims=True)
    return (centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + float(epsilon))).astype(np.float32)


def _by_channel(numbers, x):
    return wide(numbers).reshape(1, -1, *(1,) * (x.ndim - 2))


def batch_norm(x, mean, variance, gamma=None, beta=None, epsilon=_EPSILON):
    deviation = np.sqrt(_by_channel(variance, x).astype(np.float64) + float(epsilon))
    result = (wide(x) - _by_channel(mean, x)) / deviation
    result = result if gamma is None else result * _by_channel(gamma, x)
    return (result if beta is None else result + _by_channel(beta, x)).astype(np.float32)


def instance_norm(x, gamma=None, beta=None, epsilon=_EPSILON):
    result = _normal(x, tuple(range(2, x.ndim)), epsilon)
    result = result if gamma is None else result * _by_channel(gamma, x)
    return result if beta is None else result + _by_channel(beta, x)


def layer_norm(x, axes=None, gamma=None, beta=None, epsilon=_EPSILON):
    axes = tuple(range(x.ndim)) if axes is None else tuple(sorted(int(axis) % x.ndim for axis in axes))
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    result = _normal(x, axes, epsilon)
    result = result if gamma is None else result * wide(gamma).reshape(shape)
    return result if beta is None else result + wide(beta).reshape(shape)


OPERATORS = {"batch_norm": batch_norm, "instance_norm": instance_norm, "layer_norm": layer_norm}
