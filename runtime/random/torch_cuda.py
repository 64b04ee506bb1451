"""torch's CUDA generator: Philox 4x32-10, distributed over a GPU's threads as torch's kernels do."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random.base import (
    FloatArray,
    FloatName,
    IntArray,
    checked_bounds,
    checked_index,
    checked_shape,
    converted,
    float_name,
    torch_seed,
)
from diffoundry.runtime.random.philox import Words, philox4x32

__all__ = ["TorchCudaGenerator"]

_BLOCK_THREADS = 256
_WORDS = 4
"""Philox words of one counter, and torch's increment of the offset for each."""

_CHUNK = 1 << 14
"""Threads computed at once, so that the intermediate arrays stay in the processor's cache."""

_TO_UNIT = np.float32(2**-32)
_TO_ANGLE = float(_TO_UNIT * np.float32(2 * np.pi))

_Number = TypeVar("_Number", np.float32, np.uint64)


class TorchCudaGenerator:
    """The stream of `torch.Generator("cuda").manual_seed(seed)`, without torch and without a GPU.

    Each GPU thread owns a Philox subsequence. Four words at a time fill the numbers i, i + T, i + 2 T, i + 3 T. T is
    the number of threads that torch launches: the count of numbers rounded up to blocks of 256, but no more than the
    GPU holds at once. So draws of up to `multiprocessors * threads_per_multiprocessor` numbers are the same on every
    GPU at least as large. Longer draws depend on these two. `torch.cuda.get_device_properties`
    gives both: `multi_processor_count` and `max_threads_per_multi_processor`. Examples:
    H100 SXM and H200 132 x 2048 (the default), H100 PCIe 114 x 2048, A100 108 x 2048, L40S 142 x 1536,
    RTX 4090 128 x 1536, RTX 3060 28 x 1536, T4 40 x 1024.

    Checked: Philox against the known-answer vectors of Random123; `randn` (float32, float16), `rand` and `randint`
    against numbers published for torch 1.11 to 2.7 on an A100, H100, RTX A4000, RTX A6000 and others, long draws and a
    second draw among them, to the four decimals printed. Not checked: this code has not run beside a GPU, so no whole
    tensor was compared, and bfloat16 and 64-bit integers rest on torch's source alone. Uniforms and integers are exact
    arithmetic. Normals go through the GPU's approximate sine (`__sincosf`). Its error, up to about 2**-21 times the
    radius, is not imitated: expect differences of about 1e-6.

    torch: ATen/native/cuda/DistributionTemplates.h; cuRAND: `curand_init`, `curand_normal4`, `curand_uniform4`.

    Args:
        seed: -2**63 to 2**64 - 1; negative seeds count in two's complement.
        multiprocessors: of the GPU to imitate.
        threads_per_multiprocessor: of the GPU to imitate, a multiple of 256.

    Raises:
        InputError: the seed does not fit 64 bits, or the GPU's numbers are not positive multiples of 1 and 256.
    """

    kind: ClassVar[str] = "torch-cuda"

    def __init__(self, seed: int, *, multiprocessors: int = 132, threads_per_multiprocessor: int = 2048) -> None:
        self._seed = torch_seed(seed)
        self._offset = 0
        multiprocessors = checked_index(multiprocessors, "multiprocessors")
        threads = checked_index(threads_per_multiprocessor, "threads_per_multiprocessor")
        if multiprocessors < 1 or threads < _BLOCK_THREADS or threads % _BLOCK_THREADS:
            raise InputError(
                f"A GPU of {multiprocessors} multiprocessors with {threads} threads each cannot be imitated: "
                "expected 1 or more, and a positive multiple of 256. Take both from torch.cuda.get_device_properties."
            )
        self._most_blocks = multiprocessors * (threads // _BLOCK_THREADS)

    @property
    def seed(self) -> int:
        """The seed as torch's `initial_seed()` returns it: 0 to 2**64 - 1."""
        return self._seed

    @property
    def offset(self) -> int:
        """Words of every subsequence drawn so far, as torch's `get_offset()` returns it."""
        return self._offset

    def randn(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw the numbers of `torch.randn(shape, dtype=dtype, device="cuda", generator=generator)`.

        Args:
            shape: tuple of ints.
            dtype: float32; float16 and bfloat16 (returned as float32) round the same numbers.

        Raises:
            InputError: another dtype, a negative dimension, or 2**31 numbers and more.
        """
        return self._floats(shape, dtype, _normal)

    def rand(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw the numbers of `torch.rand(..., device="cuda")`; arguments as in `randn`."""
        values = self._floats(shape, dtype, _uniform)
        values[values == 1] = 0  # cuRAND's interval is (0, 1], torch's [0, 1)
        return values

    def randint(self, low: int, high: int, shape: Sequence[int]) -> IntArray:
        """Draw the numbers of `torch.randint(low, high, shape, device="cuda", generator=generator)`, int64.

        A range of 2**28 or more takes 64 bits a number, a smaller one 32.

        Raises:
            InputError: not -2**63 <= low < high < 2**63, a negative dimension, or 2**31 numbers and more.
        """
        low, high = checked_bounds(low, high)
        shape = checked_shape(shape)
        wide = high - low >= 1 << 28
        words = self._draw(math.prod(shape), _word64 if wide else _word32, 2 if wide else 4, np.uint64)
        offsets = words % np.uint64(high - low)
        return (offsets + np.uint64(low % 2**64)).view(np.int64).reshape(shape)

    def get_state(self) -> NDArray[np.uint8]:
        """Return the state in the layout of `torch.Generator("cuda").get_state()`: seed and offset, uint8, (16,)."""
        return np.array([self._seed, self._offset], "<u8").view(np.uint8)

    def set_state(self, state: NDArray[np.uint8]) -> None:
        """Continue from a state of `get_state`, or from that of a `torch.Generator` on CUDA.

        Raises:
            InputError: Not such a state.
        """
        raw = np.ascontiguousarray(state)
        if raw.dtype != np.uint8 or raw.shape != (16,):
            raise InputError(
                f"The generator state has dtype {raw.dtype} and shape {raw.shape}: expected uint8, (16,), as "
                "get_state() of this class or of a torch CUDA generator returns."
            )
        self._seed, self._offset = (int(value) for value in raw.view("<u8"))

    def __repr__(self) -> str:
        return f"TorchCudaGenerator(seed={self._seed})"

    def _floats(
        self, shape: Sequence[int], dtype: DTypeLike, number: Callable[[Words, int], NDArray[np.float32]]
    ) -> FloatArray:
        name, shape = _drawn_name(dtype), checked_shape(shape)
        return converted(self._draw(math.prod(shape), number, _WORDS, np.float32), name).reshape(shape)

    def _draw(
        self, size: int, number: Callable[[Words, int], NDArray[_Number]], lanes: int, dtype: type[_Number]
    ) -> NDArray[_Number]:
        """Draw as `distribution_nullary_kernel`: sweeps of the whole grid, `lanes` numbers a thread in each.

        Args:
            size: number of numbers, n.
            number: maps Philox words, (4, threads), and a lane to the numbers of that lane, (threads,).
            lanes: count of numbers that four words give.
            dtype: of the numbers.

        Returns:
            (n,); number i + lane T + sweep lanes T is thread i's, T threads being launched.
        """
        if size >= 2**31:
            raise InputError(
                f"{size} random numbers in one draw: expected fewer than 2**31, beyond which torch splits the draw. "
                "Draw them in parts."
            )
        if size == 0:
            return np.empty(0, dtype)
        threads = _BLOCK_THREADS * min(-(-size // _BLOCK_THREADS), self._most_blocks)
        sweeps = -(-size // (threads * lanes))
        numbers = np.empty((sweeps, lanes, threads), dtype)
        for sweep, start in itertools.product(range(sweeps), range(0, threads, _CHUNK)):
            some = slice(start, min(start + _CHUNK, threads))
            words = self._words(sweep, some)
            lanes_left = -(-(size - sweep * lanes * threads) // threads)
            for lane in range(min(lanes, lanes_left)):
                numbers[sweep, lane, some] = number(words, lane)
        self._offset += _WORDS * sweeps
        return numbers.reshape(-1)[:size]

    def _words(self, sweep: int, threads: slice) -> Words:
        """Words of `curand_init(seed, thread, offset)`, `curand4`: the counter is 64 bits of position, 64 of thread."""
        position = self._offset // _WORDS + sweep
        low, high, none = np.array([[position & 0xFFFFFFFF], [position >> 32], [0]], np.uint64)
        return philox4x32((low, high, np.arange(threads.start, threads.stop, dtype=np.uint64), none), self._seed)


def _drawn_name(dtype: DTypeLike) -> FloatName:
    name = float_name(dtype)
    if name == "float64":
        raise InputError(
            "The generator torch-cuda does not draw float64: expected float16, bfloat16 or float32. "
            "torch draws other numbers in float64; for those of float32, draw float32 and convert."
        )
    return name


def _uniform(words: Words, lane: int) -> NDArray[np.float32]:
    """Convert as `_curand_uniform`, (0, 1]."""
    uniforms: NDArray[np.float32] = words[lane].astype(np.float32) * _TO_UNIT + _TO_UNIT / 2
    return uniforms


def _normal(words: Words, lane: int) -> NDArray[np.float32]:
    """Convert as `_curand_box_muller`: words 0, 1 give lanes 0 (sine), 1 (cosine); words 2, 3 give lanes 2, 3."""
    first = lane & ~1
    radius = np.sqrt(-2 * np.log(_uniform(words, first).astype(np.float64)).astype(np.float32))
    # One rounding: the GPU's compiler fuses the multiplication with the addition.
    angle = (words[first + 1].astype(np.float32) * _TO_ANGLE + _TO_ANGLE / 2).astype(np.float32)
    exact = angle.astype(np.float64)
    return radius * (np.cos(exact) if lane & 1 else np.sin(exact)).astype(np.float32)


def _word32(words: Words, lane: int) -> NDArray[np.uint64]:
    return words[lane]


def _word64(words: Words, lane: int) -> NDArray[np.uint64]:
    return (words[2 * lane] << np.uint64(32)) | words[2 * lane + 1]
