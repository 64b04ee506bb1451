"""torch's CPU generator: Mersenne Twister 19937 and the order in which torch turns its words into numbers."""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random.base import (
    FloatArray,
    FloatName,
    IntArray,
    checked_bounds,
    checked_shape,
    converted,
    float_name,
    torch_seed,
)
from diffoundry.runtime.random.box_muller import BLOCK, CHUNK, box_muller_float64
from diffoundry.runtime.random.twister import STATE_WORDS, make_twister

__all__ = ["TorchCpuGenerator"]

_TORCH_STATE = np.dtype(
    [
        ("seed", "<u8"), ("left", "<i4"), ("seeded", "<i4"), ("next", "<u8"), ("words", "<u8", STATE_WORDS),
        ("normal_x", "<f8"), ("normal_y", "<f8"), ("normal_rho", "<f8"), ("normal_is_valid", "<i4"), ("gap", "<i4"),
        ("next_float", "<f4"), ("next_float_is_valid", "<i4"),
    ]
)  # fmt: skip
"""Layout of `torch.Generator.get_state`: `at::detail::CPUGeneratorImplState` (ATen/CPUGeneratorImpl.cpp)."""


class TorchCpuGenerator:
    """The stream of `torch.Generator("cpu").manual_seed(seed)`, without torch.

    Checked against torch 2.13 on x86-64: `rand`, `randint`, `randn` in float32, float16 and bfloat16 are equal to
    the last bit, over 10**8 float32 normals; `randn` in float64 to a few units in the last place. Older versions of
    torch (1.8 for one) drew float16 and bfloat16 from fewer bits: other numbers. On processors without AVX2 (ARM)
    torch itself takes logarithm and sine from elsewhere, and its float32 normals differ from these in the last bits.

    Matsumoto and Nishimura 1998, Mersenne Twister, https://doi.org/10.1145/272991.272995; Box and Muller 1958.
    torch: ATen/core/MT19937RNGEngine.h, ATen/core/DistributionsHelper.h, ATen/native/cpu/DistributionTemplates.h.

    Args:
        seed: -2**63 to 2**64 - 1; negative seeds count in two's complement. The low 32 bits start the twister.

    Raises:
        InputError: the seed does not fit 64 bits.
    """

    kind: ClassVar[str] = "torch-cpu"

    def __init__(self, seed: int) -> None:
        self._seed = torch_seed(seed)
        self._twister = make_twister(self._seed & 0xFFFFFFFF)
        self._cached_normal: float | None = None

    @property
    def seed(self) -> int:
        """The seed as torch's `initial_seed()` returns it: 0 to 2**64 - 1."""
        return self._seed

    def randn(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw the numbers of `torch.randn(shape, dtype=dtype, generator=generator)`.

        Fewer than 16 numbers are drawn one at a time in float64, in pairs; the second half of a pair waits for the next
        such call. 16 or more are drawn in blocks of 16.

        Args:
            shape: tuple of ints.
            dtype: float16, bfloat16 (returned as float32), float32 or float64.

        Raises:
            InputError: another dtype, or a negative dimension.
        """
        name, shape = float_name(dtype), checked_shape(shape)
        size = math.prod(shape)
        normals = self._normal_blocks(size, name) if size >= BLOCK else self._normals_one_by_one(size)
        return converted(normals, name).reshape(shape)

    def rand(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> FloatArray:
        """Draw the numbers of `torch.rand(shape, dtype=dtype, generator=generator)`; arguments as in `randn`."""
        name, shape = float_name(dtype), checked_shape(shape)
        size = math.prod(shape)
        values = converted(self._uniform53(size) if name == "float64" else self._uniform24(size), name)
        if name in {"float16", "bfloat16"}:
            values[values == 1] = 0  # torch folds values rounded up to the open bound
        return values.reshape(shape)

    def randint(self, low: int, high: int, shape: Sequence[int]) -> IntArray:
        """Draw the numbers of `torch.randint(low, high, shape, generator=generator)`, int64.

        A range of 2**28 or more takes 64 bits a number, a smaller one 32.

        Raises:
            InputError: not -2**63 <= low < high < 2**63, or a negative dimension.
        """
        low, high = checked_bounds(low, high)
        shape = checked_shape(shape)
        size = math.prod(shape)
        words = self._words64(size) if high - low >= 1 << 28 else self._twister.words(size)
        offsets = words.astype(np.uint64, copy=False) % np.uint64(high - low)
        return (offsets + np.uint64(low % 2**64)).view(np.int64).reshape(shape)

    def get_state(self) -> NDArray[np.uint8]:
        """The state in the layout of `torch.Generator.get_state()`: uint8, (5056,)."""
        state = np.zeros((), _TORCH_STATE)
        state["seed"], state["seeded"] = self._seed, 1
        state["words"], state["next"] = self._twister.state
        state["left"] = STATE_WORDS + 1 - int(state["next"])  # torch also counts down those left, one ahead
        if self._cached_normal is not None:
            state["normal_y"], state["normal_is_valid"] = self._cached_normal, 1
        return np.frombuffer(state.tobytes(), np.uint8).copy()

    def set_state(self, state: NDArray[np.uint8]) -> None:
        """Continue from a state of `get_state`, or from that of a `torch.Generator` on the CPU.

        Raises:
            InputError: not such a state.
        """
        raw = np.ascontiguousarray(state)
        if raw.dtype != np.uint8 or raw.shape != (_TORCH_STATE.itemsize,):
            raise InputError(
                f"The generator state has dtype {raw.dtype} and shape {raw.shape}: expected uint8, "
                f"({_TORCH_STATE.itemsize},), as get_state() of this class or of a torch CPU generator returns."
            )
        fields = raw.view(_TORCH_STATE)[0]
        if fields["seeded"] != 1 or not 1 <= fields["left"] <= STATE_WORDS or fields["next"] > STATE_WORDS:
            raise InputError(
                "The generator state is damaged: its counters are outside the Mersenne Twister's 624 words. "
                "Take it again with get_state()."
            )
        self._seed = int(fields["seed"])
        position = STATE_WORDS if fields["left"] == 1 else int(fields["next"])
        self._twister.state = fields["words"].astype(np.uint32), position
        self._cached_normal = float(fields["normal_y"]) if fields["normal_is_valid"] else None

    def __getstate__(self) -> bytes:
        return self.get_state().tobytes()

    def __setstate__(self, state: bytes) -> None:
        self._twister = make_twister(0)
        self.set_state(np.frombuffer(state, np.uint8))

    def __repr__(self) -> str:
        return f"TorchCpuGenerator(seed={self._seed})"

    def _words64(self, count: int) -> NDArray[np.uint64]:
        pairs = self._twister.words(2 * count).astype(np.uint64).reshape(-1, 2)
        return (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]

    def _uniform24(self, count: int) -> NDArray[np.float32]:
        words = self._twister.words(count)
        words &= np.uint32(2**24 - 1)
        uniforms = words.astype(np.float32)
        uniforms *= 2**-24
        return uniforms

    def _uniform53(self, count: int) -> NDArray[np.float64]:
        words = self._words64(count)
        words &= np.uint64(2**53 - 1)
        uniforms = words.astype(np.float64)
        uniforms *= 2**-53
        return uniforms

    def _normals_one_by_one(self, size: int) -> FloatArray:
        return np.array([self._next_normal() for _ in range(size)], np.float64)

    def _next_normal(self) -> float:
        """Draw from `at::normal_distribution<double>`: the cosine now, the sine at the next call."""
        if self._cached_normal is not None:
            normal, self._cached_normal = self._cached_normal, None
            return normal
        u1, u2 = self._uniform53(2).tolist()
        radius = math.sqrt(-2 * math.log1p(-u2))
        theta = 2 * math.pi * u1
        self._cached_normal = radius * math.sin(theta)
        return radius * math.cos(theta)

    def _normal_blocks(self, size: int, name: FloatName) -> FloatArray:
        """Draw whole blocks in order; when `size` is no multiple of 16, the last 16 numbers are drawn again.

        torch's `normal_fill` fills float32 and float64 buffers with uniforms first, so those of the remainder are drawn
        and thrown away. float16 and bfloat16 go block by block and never draw them.
        """
        remainder = size % BLOCK
        if name == "float64":
            wide = np.empty(size, np.float64)
            self._fill_float64(wide[: size - remainder])
            if remainder:
                self._twister.words(2 * remainder)
                self._fill_float64(wide[size - BLOCK :])
            return wide
        normals = np.empty(size, np.float32)
        self._twister.fill_normals(normals[: size - remainder])
        if remainder:
            if name == "float32":
                self._twister.words(remainder)
            self._twister.fill_normals(normals[size - BLOCK :])
        return normals

    def _fill_float64(self, normals: NDArray[np.float64]) -> None:
        for start in range(0, len(normals), CHUNK):
            part = normals[start : start + CHUNK]
            part[...] = box_muller_float64(self._uniform53(len(part)))
