"""The arrays that schedulers compute with."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Float32Array", "FloatArray", "Sample", "per_image"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]

Float32Array: TypeAlias = NDArray[np.float32]

Sample: TypeAlias = FloatArray
"""The noisy sample, a model's output or noise: float32 or float64, (B, ...)."""


def per_image(values: Float32Array, ndim: int) -> Float32Array:
    """Shape one value for each image so that it multiplies a batch: (B,) to (B, 1, ..., 1)."""
    return values.reshape(-1, *[1] * (ndim - 1))
