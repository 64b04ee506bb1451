"""Makes generators by name, and noise for a batch of images from one generator or one per image."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random.base import FloatArray, Generator, checked_shape
from diffoundry.runtime.random.numpy_generator import NumpyGenerator
from diffoundry.runtime.random.torch_cpu import TorchCpuGenerator
from diffoundry.runtime.random.torch_cuda import TorchCudaGenerator
from diffoundry.runtime.random.torch_generator import as_generators

__all__ = ["GeneratorKind", "make_generator", "randn_tensor"]

GeneratorKind = Literal["torch-cpu", "torch-cuda", "numpy"]


class _SeededClass(Protocol):
    def __call__(self, seed: int) -> Generator: ...


_CLASSES: Mapping[str, _SeededClass] = MappingProxyType(
    {
        TorchCpuGenerator.kind: TorchCpuGenerator,
        TorchCudaGenerator.kind: TorchCudaGenerator,
        NumpyGenerator.kind: NumpyGenerator,
    }
)


def make_generator(kind: GeneratorKind, seed: int) -> Generator:
    """Start the stream `kind` from `seed`.

    Args:
        kind: "torch-cpu", the stream of `torch.Generator("cpu")`; "torch-cuda", that of `torch.Generator("cuda")`
            on an H100 SXM or H200 (see `TorchCudaGenerator` for others); "numpy", `numpy.random.RandomState`.
        seed: whole number; the generator's class documents the range.

    Raises:
        InputError: another kind, or a seed out of range.
    """
    if kind not in _CLASSES:
        raise InputError(f"There is no random generator {kind!r}: expected one of {', '.join(_CLASSES)}.")
    return _CLASSES[kind](seed)


def randn_tensor(
    shape: Sequence[int], generator: Generator | Sequence[Generator], dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw normal noise for a batch, as `diffusers.utils.torch_utils.randn_tensor` does.

    A list of generators draws image i, of shape (1, ...), from generator i; a list of one counts as that one
    generator, which then draws the whole batch.

    Args:
        shape: (batch, ...).
        generator: one generator, or one for each image; a `torch.Generator` too.
        dtype: as in `Generator.randn`.

    Raises:
        InputError: a list whose length is neither 1 nor the batch size (diffusers' pipelines refuse it too).
    """
    generator = as_generators(generator)
    if not isinstance(generator, Sequence):
        return generator.randn(shape, dtype)
    if len(generator) == 1:
        return generator[0].randn(shape, dtype)
    shape = checked_shape(shape)
    if not shape or len(generator) != shape[0]:
        raise InputError(
            f"A list of {len(generator)} random generators was passed for noise of shape {shape}, a batch of "
            f"{shape[0] if shape else 'no'} images: expected one generator, or as many as images."
        )
    return np.concatenate([one.randn((1, *shape[1:]), dtype) for one in generator])
