"""Generators of other libraries: torch's are used without importing torch, the others are refused with advice."""

import copy
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random.base import FloatArray, Generator, IntArray
from diffoundry.runtime.random.torch_cpu import TorchCpuGenerator
from diffoundry.runtime.random.torch_cuda import TorchCudaGenerator

__all__ = ["GeneratorInput", "TorchGenerator", "as_generator", "as_generators"]

_ADVICE = "expected seed=0, a torch.Generator, or diffoundry.runtime.random.TorchCpuGenerator(0), which draws the same"


class _TorchLike(Protocol):
    """A `torch.Generator`, for type checkers."""

    def initial_seed(self) -> int: ...
    def get_state(self) -> Any: ...


GeneratorInput: TypeAlias = Generator | _TorchLike | Sequence[Generator | _TorchLike]
"""One generator, ours or torch's, or one for each image."""


class TorchGenerator:
    """A `torch.Generator` of the caller: draws go on from its state and advance it, as in diffusers.

    A copy is one of our own generators at the same place in the stream.

    Args:
        generator: On the CPU or on CUDA.

    Raises:
        InputError: It is on another device.
    """

    def __init__(self, generator: Any) -> None:
        self._theirs = generator
        device = generator.device
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"generator: got a torch.Generator on {device.type!r}, expected one on 'cpu' or 'cuda'")
        self._ours = TorchCpuGenerator(0) if device.type == "cpu" else _cuda_like(device)

    @property
    def kind(self) -> str:
        """Name of the stream."""
        return self._ours.kind

    @property
    def seed(self) -> int:
        """The seed that the stream started from: torch's `initial_seed()`."""
        return int(self._theirs.initial_seed())

    def randn(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw normals; see `Generator`."""
        return cast(FloatArray, self._draw("randn", shape, dtype))

    def rand(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw uniforms; see `Generator`."""
        return cast(FloatArray, self._draw("rand", shape, dtype))

    def randint(self, low: int, high: int, shape: Sequence[int]) -> IntArray:
        """Draw integers; see `Generator`."""
        return cast(IntArray, self._draw("randint", low, high, shape))

    def _draw(self, name: str, *arguments: Any) -> NDArray[Any]:
        state = self._theirs.get_state()  # a torch.Tensor of bytes, whose array shares its memory
        self._ours.set_state(state.numpy())
        drawn: NDArray[Any] = getattr(self._ours, name)(*arguments)
        state.numpy()[:] = self._ours.get_state()
        self._theirs.set_state(state)
        return drawn

    def __copy__(self) -> Generator:
        ours = copy.deepcopy(self._ours)
        ours.set_state(self._theirs.get_state().numpy())
        return ours

    def __deepcopy__(self, memo: dict[int, Any]) -> Generator:
        return self.__copy__()

    def __repr__(self) -> str:
        return f"TorchGenerator(kind={self.kind!r}, seed={self.seed})"


def as_generator(generator: Any) -> Generator:
    """Return a generator of the caller in our form.

    Args:
        generator: One of ours, or a `torch.Generator`.

    Raises:
        InputError: Another object; the message says how to get the same numbers.
    """
    cls = type(generator)
    module = cls.__module__.partition(".")[0]
    if any(base.__module__.partition(".")[0] == "torch" and base.__name__ == "Generator" for base in cls.__mro__):
        return TorchGenerator(generator)
    if module in ("numpy", "torch", "jax") or cls is ModuleType or not hasattr(generator, "randn"):
        name = f"{cls.__module__}.{cls.__name__}".removeprefix("builtins.")
        more = "; NumpyGenerator(0) draws the numbers of numpy.random.RandomState(0)" if module == "numpy" else ""
        hint = f"; pass seed={generator!r}" if cls is int else more
        raise InputError(f"generator: got {name}, {_ADVICE}{hint}")
    return cast(Generator, generator)


def as_generators(generator: Any) -> Generator | list[Generator]:
    """Return one generator, or a list of them, one for each image, in our form.

    Raises:
        InputError: As `as_generator`.
    """
    if not isinstance(generator, list | tuple):
        return as_generator(generator)
    return [as_generator(one) for one in generator]


def _cuda_like(device: Any) -> TorchCudaGenerator:
    """Return a generator for the GPU of a device; torch is loaded where a generator of it exists."""
    found = sys.modules["torch"].cuda.get_device_properties(device)
    return TorchCudaGenerator(
        0,
        multiprocessors=found.multi_processor_count,
        threads_per_multiprocessor=found.max_threads_per_multi_processor,
    )
