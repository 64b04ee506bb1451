"""Noise for stochastic steps, asked from the generator that the caller owns."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.affine import Sample

__all__ = ["Generator", "NoiseSource", "noise_like"]


class NoiseSource(Protocol):
    """What `diffoundry.runtime.random`'s generators offer."""

    def randn(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Standard normal numbers of a shape."""
        ...


Generator: TypeAlias = NoiseSource | Sequence[NoiseSource] | None
"""One source, or one for each image of the batch, or None for unseeded noise."""


def noise_like(sample: Sample, generator: Generator) -> Sample:
    """Standard normal noise in the shape and dtype of a sample (diffusers: `randn_tensor`).

    Args:
        sample: (B, ...), or a linear form.
        generator: with a list, image i takes its noise from source i; None draws unseeded noise.

    Returns:
        noise, same shape and dtype.

    Raises:
        InputError: a list of sources whose length is not B.
    """
    shape: tuple[int, ...] = sample.shape
    if generator is None:
        return np.random.default_rng().standard_normal(shape, dtype=np.float32).astype(sample.dtype, copy=False)
    if not isinstance(generator, Sequence):
        return generator.randn(shape, sample.dtype)
    if len(generator) == 1:
        return generator[0].randn(shape, sample.dtype)
    if len(generator) != shape[0]:
        raise InputError(
            f"generator is a list of {len(generator)} for a batch of {shape[0]}: pass one for each image, or one alone."
        )
    return np.concatenate([source.randn((1, *shape[1:]), sample.dtype) for source in generator])
