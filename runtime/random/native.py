"""Finds, checks and loads the native random numbers (`native/random/`).

They give the same bits as the NumPy code, some fifteen times as fast, and release the GIL.
"""

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import diffoundry
from diffoundry.runtime.errors import ConfigError

__all__ = ["NativeLibrary", "describe_random_numbers", "native_library"]

VARIABLE = "DIFFOUNDRY_NATIVE_RANDOM"
"""Environment variable: "off", or the folder that holds the library, instead of the folder of this package."""

_LIBRARY = "diffoundry_random.dll" if os.name == "nt" else "diffoundry_random.so"
_ABI = 1
_LEVELS = ("portable code", "AVX2", "AVX-512")
_FILL = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)  # state, array, its size, level
_SIGNATURES = {
    "diffoundry_random_seed": (ctypes.c_void_p, ctypes.c_uint32),
    "diffoundry_random_words": _FILL,
    "diffoundry_random_normals": _FILL,
}
_FIRST_WORDS = (3499211612, 581869302, 3890346734)
"""First numbers of Matsumoto's mt19937ar.c with its own seed, 5489."""


@dataclass(frozen=True)
class NativeLibrary:
    """A loaded library; its calls release the GIL.

    Attributes:
        path: of the library.
        level: instruction set in use: 0 portable code, 1 AVX2, 2 AVX-512; the bits are the same.
    """

    path: Path
    level: int
    _calls: ctypes.CDLL

    def seed(self, state: int, seed: int) -> None:
        """Start the twister in the 625 uint32 at the address `state` from 32 bits."""
        self._calls.diffoundry_random_seed(state, seed)

    def words(self, state: int, words: NDArray[np.uint32]) -> None:
        """Fill a contiguous array with the next words."""
        self._calls.diffoundry_random_words(state, words.ctypes.data, words.size, self.level)

    def normals(self, state: int, normals: NDArray[np.float32]) -> None:
        """Fill a contiguous array, of a multiple of 16, with torch's normals of the next words."""
        self._calls.diffoundry_random_normals(state, normals.ctypes.data, normals.size, self.level)


def describe_random_numbers() -> str:
    """Describe the code that computes torch's CPU random numbers here: the native library, or NumPy and the reason."""
    found = _search()
    if isinstance(found, str):
        return f"NumPy ({found})"
    return f"native code, {_LEVELS[found.level]} ({found.path})"


def native_library() -> NativeLibrary | None:
    """Load the native library, or return None where none works.

    Raises:
        ConfigError: DIFFOUNDRY_NATIVE_RANDOM names a folder without a library that works.
    """
    found = _search()
    return None if isinstance(found, str) else found


@cache
def _search() -> NativeLibrary | str:
    """The library, or the reason why there is none."""
    asked = os.environ.get(VARIABLE, "")
    if asked.lower() == "off":
        return f"{VARIABLE} is off"
    folders = [Path(asked).resolve()] if asked else [Path(base) / "runtime" / "random" for base in diffoundry.__path__]
    paths = [folder / _LIBRARY for folder in folders]
    found = next((path for path in paths if path.is_file()), None)
    loaded = _load(found) if found else "the native library is not installed"
    if asked and isinstance(loaded, str):
        raise ConfigError(
            f"{VARIABLE} is {asked!r}: {loaded}; expected a folder with a {_LIBRARY} of this version. "
            "Build it from native/random, or unset the variable."
        )
    return loaded


def _load(path: Path) -> NativeLibrary | str:
    """Open a library and compare its first numbers with published ones."""
    try:
        calls = ctypes.CDLL(str(path))
        abi = int(calls.diffoundry_random_abi())
    except (OSError, AttributeError) as error:
        return f"{path} cannot be loaded ({error})"
    if abi != _ABI:
        return f"{path} has interface {abi}, expected {_ABI}"
    for name, arguments in _SIGNATURES.items():
        call = getattr(calls, name)
        call.argtypes, call.restype = arguments, None
    library = NativeLibrary(path, int(calls.diffoundry_random_level()), calls)
    state, words = np.zeros(625, np.uint32), np.zeros(len(_FIRST_WORDS), np.uint32)
    library.seed(state.ctypes.data, 5489)
    library.words(state.ctypes.data, words)
    if tuple(words.tolist()) != _FIRST_WORDS:
        return f"{path} draws wrong numbers"
    return library
