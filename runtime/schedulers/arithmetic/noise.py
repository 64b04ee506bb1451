"""Noise for stochastic steps, asked from the generator that the caller owns."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from diffoundry.runtime import random
from diffoundry.runtime.schedulers.arithmetic.arrays import Sample

__all__ = ["Generator", "noise_like"]

Generator: TypeAlias = random.Generator | Sequence[random.Generator] | None
"""One source, or one for each image of the batch, or None for unseeded noise."""


def noise_like(sample: Sample, generator: Generator) -> Sample:
    """Standard normal noise in the shape and dtype of a sample.

    Args:
        sample: (B, ...), or a linear form.
        generator: as for `diffoundry.runtime.random.randn_tensor`; None draws unseeded noise.

    Returns:
        noise, same shape and dtype.

    Raises:
        InputError: a list of generators whose length is not B.
    """
    if generator is None:
        return np.random.default_rng().standard_normal(sample.shape, dtype=np.float32).astype(sample.dtype, copy=False)
    return random.randn_tensor(sample.shape, generator, sample.dtype)
