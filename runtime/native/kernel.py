"""Finds and loads the attention kernel (`native/attention/`) and calls it with NumPy arrays."""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import diffoundry
from diffoundry.runtime.errors import ConfigError, EngineError, InputError

__all__ = ["PATH_VARIABLE", "AttentionKernel", "attention_kernel", "installed_file"]

Array = npt.NDArray[Any]

_LIBRARY = "libdiffoundry_attention.so"
_INTERFACE = 1
_MAX_THREADS = 1024
PATH_VARIABLE, _ASKED_PATH = "DIFFOUNDRY_NATIVE_PATH", "avx512bf16"
"""Environment variable for the path of bfloat16 tensors, and the one that is taken nowhere without it."""

_PATHS = ("none", "avx2", "avx512", "amx", "avx512bf16")
_TYPES = {"float32": 0, "float16": 1, "uint16": 2}
_PRECISIONS = {"fp32": 0, "fp16": 1, "bf16": 2}
_ARGUMENTS = (
    *(ctypes.c_int,) * 3,  # path, threads, type
    *(ctypes.c_void_p,) * 4,  # q, k, v, output
    *(ctypes.c_size_t,) * 6,  # batch, heads, queries, keys, width, width of v
    ctypes.c_float,
    ctypes.c_char_p,
    ctypes.c_size_t,
)


@dataclass(frozen=True)
class AttentionKernel:
    """The loaded kernel; its calls release the GIL and may run at the same time.

    Attributes:
        path: Path of the library.
        openvino: OpenVINO release that the extension beside it was built against, or "" when there is none.
    """

    path: Path
    openvino: str
    _calls: ctypes.CDLL

    def available(self, name: str) -> bool:
        """Return whether this machine can run the path "avx2", "avx512", "avx512bf16" or "amx"."""
        return bool(self._calls.diffoundry_attention_available(_index("path", name, _PATHS)))

    def best_path(self, precision: str) -> str:
        """Name the path for tensors of "fp32", "fp16" or "bf16" here: one of `available`, or "none"."""
        return _PATHS[self._calls.diffoundry_attention_best_path(_index("precision", precision, tuple(_PRECISIONS)))]

    def attention(
        self, q: Array, k: Array, v: Array, *, heads: int, scale: float, path: str, threads: int | None = None
    ) -> Array:
        """Compute softmax(scale * Q K^T) V for every head.

        Args:
            q: (batch, queries, heads * width); float32, float16, or bfloat16 as its bits in uint16.
            k: (batch, keys, heads * width), of the same type.
            v: (batch, keys, heads * value width), of the same type.
            heads: Number of heads.
            scale: Factor of the scores.
            path: "avx2" or "avx512", which compute in float32, or "amx" or "avx512bf16", which take bfloat16 only.
            threads: Number of threads, 1 to 1024, or None for one a processor. Fewer run where no more can start.

        Returns:
            (batch, queries, heads * value width), of the same type.

        Raises:
            InputError: The arrays' types or shapes do not match, or a number or name is not one of those above.
            EngineError: The kernel refuses the sizes or the path.
        """
        q, k, v = (np.ascontiguousarray(array) for array in (q, k, v))
        _check(q, k, v, heads, threads)
        output = np.empty((*q.shape[:2], v.shape[2]), q.dtype)
        message = ctypes.create_string_buffer(512)
        arrays = (array.ctypes.data for array in (q, k, v, output))
        sizes = (q.shape[0], heads, q.shape[1], k.shape[1], q.shape[2] // heads, v.shape[2] // heads)
        count = min(os.cpu_count() or 1, _MAX_THREADS) if threads is None else threads
        head = (_index("path", path, _PATHS), count, _TYPES[q.dtype.name])
        if self._calls.diffoundry_attention(*head, *arrays, *sizes, scale, message, len(message)):
            raise EngineError(message.value.decode())
        return output


def _index(what: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise InputError(f"native attention: {what}: got {name!r}, expected one of {', '.join(names)}")
    return names.index(name)


def _check(q: Array, k: Array, v: Array, heads: int, threads: int | None) -> None:
    if threads is not None and (type(threads) is not int or not 1 <= threads <= _MAX_THREADS):
        raise InputError(f"native attention: threads: got {threads!r}, expected 1 to {_MAX_THREADS}")
    dtypes = {array.dtype.name for array in (q, k, v)}
    if len(dtypes) > 1 or not dtypes <= _TYPES.keys():
        raise InputError(f"native attention: got {sorted(dtypes)}, expected one of {', '.join(_TYPES)} for q, k and v")
    shapes = f"q {q.shape}, k {k.shape} and v {v.shape} with {heads} heads"
    together = q.ndim == k.ndim == v.ndim == 3 and q.shape[0] == k.shape[0] == v.shape[0]
    if not together or k.shape[1] != v.shape[1] or q.shape[2] != k.shape[2]:
        raise InputError(
            f"native attention: got {shapes}, expected one batch, k and v of one length, q and k of one width"
        )
    if type(heads) is not int or heads < 1 or q.shape[2] % heads or v.shape[2] % heads:
        raise InputError(f"native attention: got {shapes}, expected widths that are multiples of the heads")


def attention_kernel() -> AttentionKernel | None:
    """Load the kernel, or return None where it is not installed.

    Raises:
        EngineError: A library is there that cannot be loaded.
        ConfigError: DIFFOUNDRY_NATIVE_PATH names no path that may be asked for, or one that this processor lacks.
    """
    found, asked = installed_file(_LIBRARY), os.environ.get(PATH_VARIABLE)
    kernel = _load(found) if found else None
    if asked and asked != _ASKED_PATH:
        raise ConfigError(
            f"{PATH_VARIABLE}: got {asked!r}, expected {_ASKED_PATH}; unset it for the processor's own path"
        )
    if asked and kernel and not kernel.available(asked):
        raise ConfigError(
            f"{PATH_VARIABLE}: got {asked}, expected a processor with AVX512-BF16, which this is not; unset it"
        )
    return kernel


def installed_file(name: str) -> Path | None:
    """Find a compiled library of ours: beside this file in a checkout, or in an editable install's build folder."""
    folders = [Path(__file__).parent, *(Path(base) / "runtime" / "native" for base in diffoundry.__path__)]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


@cache
def _load(path: Path) -> AttentionKernel:
    try:
        calls = ctypes.CDLL(str(path))
        interface = int(calls.diffoundry_attention_interface())
    except (OSError, AttributeError) as error:
        raise _unusable(path, str(error)) from error
    if interface != _INTERFACE:
        raise _unusable(path, f"interface {interface}")
    calls.diffoundry_attention.argtypes = _ARGUMENTS
    calls.diffoundry_attention_openvino.restype = ctypes.c_char_p
    return AttentionKernel(path, calls.diffoundry_attention_openvino().decode(), calls)


def _unusable(path: Path, why: str) -> EngineError:
    return EngineError(
        f"native attention: {path} cannot be used ({why}), expected a library with interface {_INTERFACE}; "
        "build it again with `make native`, or delete it"
    )
