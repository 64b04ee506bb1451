"""NumPy's own stream, as diffusers' ONNX pipelines draw it: `numpy.random.RandomState`."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random.base import (
    FloatArray,
    IntArray,
    checked_bounds,
    checked_index,
    checked_shape,
    converted,
    float_name,
)

__all__ = ["NumpyGenerator"]


class NumpyGenerator:
    """The stream of `numpy.random.RandomState(seed)`, whose numbers NumPy has promised never to change (NEP 19).

    diffusers' `OnnxStableDiffusionPipeline` draws `generator.randn(*shape).astype(dtype)`; so does `randn` here:
    NumPy draws float64, which is then rounded to the dtype. `rand` can therefore round up to 1 in narrow dtypes.

    Args:
        seed: 0 to 2**32 - 1, as RandomState takes it.

    Raises:
        InputError: another seed.
    """

    kind: ClassVar[str] = "numpy"

    def __init__(self, seed: int) -> None:
        self._seed = checked_index(seed, "The seed")
        if not 0 <= self._seed < 2**32:
            raise InputError(
                f"Seed {self._seed} is not one of NumPy's RandomState: expected 0 to 2**32 - 1. "
                "Take a seed in that range, or the generator torch-cpu, which takes 64 bits."
            )
        self._state = np.random.RandomState(self._seed)

    @property
    def seed(self) -> int:
        """The seed that the stream started from."""
        return self._seed

    def randn(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw `RandomState.standard_normal(shape)`, rounded to float16, bfloat16 (as float32), float32 or float64.

        Raises:
            InputError: another dtype, or a negative dimension.
        """
        name, shape = float_name(dtype), checked_shape(shape)
        return converted(np.asarray(self._state.standard_normal(shape)), name)

    def rand(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw `RandomState.random_sample(shape)`, rounded as in `randn`."""
        name, shape = float_name(dtype), checked_shape(shape)
        return converted(np.asarray(self._state.random_sample(shape)), name)

    def randint(self, low: int, high: int, shape: Sequence[int]) -> IntArray:
        """Draw `RandomState.randint(low, high, shape, dtype=int64)`.

        Raises:
            InputError: not -2**63 <= low < high < 2**63, or a negative dimension.
        """
        low, high = checked_bounds(low, high)
        return np.asarray(self._state.randint(low, high, checked_shape(shape), dtype=np.int64))

    def __getstate__(self) -> tuple[int, dict[str, Any]]:
        return self._seed, self._state.get_state(legacy=False)

    def __setstate__(self, state: tuple[int, dict[str, Any]]) -> None:
        self._seed, stream = state
        self._state = np.random.RandomState(0)
        self._state.set_state(stream)

    def __repr__(self) -> str:
        return f"NumpyGenerator(seed={self._seed})"
