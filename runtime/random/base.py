"""Shared parts of the random generators: the protocol, dtypes, shapes and seeds."""

import operator
from collections.abc import Sequence
from typing import Any, Literal, Protocol, SupportsIndex, cast, get_args, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffoundry.runtime.errors import InputError

__all__ = [
    "FloatArray",
    "FloatName",
    "Generator",
    "IntArray",
    "checked_bounds",
    "checked_index",
    "checked_shape",
    "converted",
    "float_name",
    "torch_seed",
]

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]
FloatName = Literal["float16", "bfloat16", "float32", "float64"]


@runtime_checkable
class Generator(Protocol):
    """A stream of random numbers with a state; every draw advances it.

    Generators can be copied (`copy.copy`, `copy.deepcopy`) and pickled; a copy continues the stream on its own.
    One generator belongs to one thread at a time.

    Shapes are tuples of ints. NumPy has no bfloat16: dtype "bfloat16" gives float32 arrays that hold bfloat16 values.
    """

    @property
    def kind(self) -> str:
        """Name of the stream, as passed to `make_generator`."""

    @property
    def seed(self) -> int:
        """The seed that the stream started from."""

    def randn(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw from the normal distribution of mean 0 and standard deviation 1."""

    def rand(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw from the uniform distribution on [0, 1)."""

    def randint(self, low: int, high: int, shape: Sequence[int]) -> IntArray:
        """Draw integers, int64, from [low, high)."""


def float_name(dtype: DTypeLike) -> FloatName:
    """Name a floating point type that generators draw: float16, bfloat16, float32 or float64.

    Raises:
        InputError: any other dtype.
    """
    name = dtype if dtype == "bfloat16" else np.dtype(dtype).name
    if name not in get_args(FloatName):
        raise InputError(
            f"Random numbers cannot be drawn as dtype {name!r}: expected one of {', '.join(get_args(FloatName))}. "
            "Draw float32 and convert."
        )
    return cast(FloatName, name)


def converted(values: FloatArray, name: FloatName) -> FloatArray:
    """Convert `values`, float32 or float64, to the dtype `name`; bfloat16 values stay in float32 storage.

    Rounds to nearest, ties to even; from float64 to 16 bits by way of float32, as torch's conversions go.
    """
    if name == "float64":
        return values.astype(np.float64, copy=False)
    single = values.astype(np.float32, copy=False)
    if name == "bfloat16":
        bits = single.view(np.uint32)
        bits = (bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    return single.astype(name, copy=False)


def checked_index(value: SupportsIndex, what: str) -> int:
    """Convert `value` to an int.

    Raises:
        InputError: `value` is not an integer; the message calls it `what`.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{what} is {value!r}: expected an integer. Convert it with int().") from error


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Convert `shape` to a tuple of ints.

    Raises:
        InputError: a dimension is negative or not an integer.
    """
    try:
        dims = tuple(map(operator.index, shape))
    except TypeError:
        dims = tuple(checked_index(dim, f"A dimension of shape {shape!r}") for dim in shape)
    if min(dims, default=0) < 0:
        raise InputError(f"Shape {dims} has a negative dimension: expected sizes of 0 or more.")
    return dims


def checked_bounds(low: int, high: int) -> tuple[int, int]:
    """Convert the bounds of `randint` to ints within int64.

    Raises:
        InputError: `low` is not below `high`, or one of them does not fit int64.
    """
    low, high = checked_index(low, "low of randint"), checked_index(high, "high of randint")
    if not -(2**63) <= low < high < 2**63:
        raise InputError(
            f"randint got low={low}, high={high}: expected -2**63 <= low < high < 2**63. "
            "The numbers drawn are int64, from low up to and without high."
        )
    return low, high


def torch_seed(seed: int) -> int:
    """Convert a seed to the 64 bits that torch uses, as an int from 0 to 2**64 - 1.

    A negative seed is taken in two's complement, as `torch.Generator.manual_seed` does.

    Raises:
        InputError: the seed is not an integer or lies outside -2**63 ... 2**64 - 1.
    """
    seed = checked_index(seed, "The seed")
    if not -(2**63) <= seed < 2**64:
        raise InputError(
            f"seed: got {seed}, which does not fit 64 bits, expected a whole number from -2**63 to 2**64 - 1, as torch "
            f"takes it"
        )
    return seed % 2**64
