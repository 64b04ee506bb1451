"""The arrays that schedulers compute with, and noise in their shape."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime import random

__all__ = ["Float32Array", "Float64Array", "FloatArray", "Generator", "Sample", "noise_like", "per_image"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]

Sample: TypeAlias = FloatArray
"""The noisy sample, a model's output or noise: float32 or float64, (B, ...)."""

Generator: TypeAlias = random.Generator | Sequence[random.Generator] | None
"""One source of noise, or one for each image of the batch, or None for unseeded noise."""


def noise_like(sample: Sample, generator: Generator) -> Sample:
    """Draw standard normal noise in the shape and dtype of a sample.

    Raises:
        InputError: a list of generators whose length is not that of the batch.
    """
    if generator is None:
        return np.random.default_rng().standard_normal(sample.shape, dtype=np.float32).astype(sample.dtype, copy=False)
    return random.randn_tensor(sample.shape, generator, sample.dtype)


def per_image(values: Float32Array, ndim: int) -> Float32Array:
    """Shape one value for each image so that it multiplies a batch: (B,) to (B, 1, ..., 1)."""
    return values.reshape(-1, *[1] * (ndim - 1))
