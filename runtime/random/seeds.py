"""Generators for the images of one call, from its seed or its generators."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffoundry.runtime.checks.arguments import is_whole
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random.ahead import draw_ahead
from diffoundry.runtime.random.base import Generator
from diffoundry.runtime.random.torch_cpu import TorchCpuGenerator
from diffoundry.runtime.random.torch_generator import as_generators

__all__ = ["make_generators"]


def make_generators(
    seed: Any, generator: Any, images: int, *, has_latents: bool
) -> tuple[int | tuple[int, ...] | None, Generator | Sequence[Generator]]:
    """Return the seed to report and the generators to draw from.

    Without seed and generator a seed is drawn from the system, so that every image can be generated again. Generators
    made here draw ahead; the caller's own are never ahead of the call.

    Args:
        seed: A whole number, one for each image, or None.
        generator: As `as_generators` takes it, or None.
        images: Number of images.
        has_latents: True if the caller's latents, and not the seed, decide the image.

    Raises:
        InputError: A list of seeds or generators of another length than there are images, or something else.
    """
    if generator is not None:
        generators = as_generators(generator)
        if isinstance(generators, list) and len(generators) != images:
            raise InputError(f"generator: got {len(generators)}, expected one or {images}")
        return None, generators
    if seed is None:
        drawn = int.from_bytes(os.urandom(4), "little")
        return None if has_latents else drawn, draw_ahead(TorchCpuGenerator(drawn))
    if is_whole(seed):
        return seed, draw_ahead(TorchCpuGenerator(seed))
    if not isinstance(seed, Sequence | np.ndarray) or not all(map(is_whole, seed)):
        raise InputError(f"seed: got {seed!r}, expected a whole number or a list of them")
    if len(seed) != images:
        raise InputError(f"seed: got {len(seed)} seeds, expected one or {images}, one for each image")
    return tuple(seed), [draw_ahead(TorchCpuGenerator(value)) for value in seed]
