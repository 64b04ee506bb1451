"""Mersenne Twister 19937: its words and torch's float32 normals, by NumPy or by the native library."""

from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffoundry.runtime.random.box_muller import CHUNK, box_muller_float32
from diffoundry.runtime.random.native import NativeLibrary, native_library

__all__ = ["STATE_WORDS", "NativeTwister", "NumpyTwister", "Twister", "make_twister"]

STATE_WORDS = 624


class Twister(Protocol):
    """A stream of 32-bit words, seeded as Matsumoto's `init_genrand` does it."""

    def words(self, count: int) -> NDArray[np.uint32]:
        """Draw the next words, (count,)."""

    def fill_normals(self, normals: NDArray[np.float32]) -> None:
        """Fill a contiguous array, (n,) with n a multiple of 16, with the normals that torch computes from n words."""

    @property
    def state(self) -> tuple[NDArray[np.uint32], int]:
        """The 624 words of the current batch, and the number of them already drawn."""

    @state.setter
    def state(self, state: tuple[NDArray[np.uint32], int]) -> None: ...


def make_twister(seed: int) -> Twister:
    """Make a twister from 32 bits: native where the library is installed, else NumPy's. Both give the same stream."""
    library = native_library()
    return NumpyTwister(seed) if library is None else NativeTwister(library, seed)


class NativeTwister:
    """The native library's twister."""

    def __init__(self, library: NativeLibrary, seed: int) -> None:
        self._library = library
        self._state = np.empty(STATE_WORDS + 1, np.uint32)
        self._address = self._state.ctypes.data
        library.seed(self._address, seed)

    def words(self, count: int) -> NDArray[np.uint32]:
        """Draw the next words, (count,)."""
        words = np.empty(count, np.uint32)
        self._library.words(self._address, words)
        return words

    def fill_normals(self, normals: NDArray[np.float32]) -> None:
        """Fill an array with normals."""
        self._library.normals(self._address, normals)

    @property
    def state(self) -> tuple[NDArray[np.uint32], int]:
        """The words, and the number already drawn."""
        return self._state[:STATE_WORDS].copy(), int(self._state[STATE_WORDS])

    @state.setter
    def state(self, state: tuple[NDArray[np.uint32], int]) -> None:
        self._state[:STATE_WORDS], self._state[STATE_WORDS] = state


class NumpyTwister:
    """NumPy's twister, its words drawn through `RandomState`, whose stream NumPy has promised never to change."""

    def __init__(self, seed: int) -> None:
        self._twister = np.random.MT19937(_NO_ENTROPY)
        # RandomState.seed is Matsumoto's init_genrand, which MT19937 itself does not offer.
        self._legacy = np.random.RandomState(self._twister)
        self._legacy.seed(seed)

    def words(self, count: int) -> NDArray[np.uint32]:
        """Draw the next words, (count,)."""
        return self._legacy.randint(0, 2**32, size=count, dtype=np.uint32)

    def fill_normals(self, normals: NDArray[np.float32]) -> None:
        """Fill an array with normals."""
        for start in range(0, len(normals), CHUNK):
            part = normals[start : start + CHUNK]
            box_muller_float32(self.words(len(part)), part)

    @property
    def state(self) -> tuple[NDArray[np.uint32], int]:
        """The words, and the number already drawn."""
        inner = self._twister.state["state"]
        return inner["key"], int(inner["pos"])

    @state.setter
    def state(self, state: tuple[NDArray[np.uint32], int]) -> None:
        self._twister.state = {"bit_generator": "MT19937", "state": {"key": state[0], "pos": state[1]}}


class _NoEntropy(np.random.SeedSequence):
    """Seeds MT19937 before its real seeding: SeedSequence's own mixing would take four times as long."""

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[np.uint32 | np.uint64]:
        """Zeros."""
        return np.zeros(n_words, dtype)


_NO_ENTROPY = _NoEntropy(0)
