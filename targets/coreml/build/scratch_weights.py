"""Keeps the weights of a program in a scratch file, so that they take no memory until they are written."""

import mmap
import tempfile
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from unittest import mock

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.backend.mil import helper

from diffoundry.runtime.engines.memory import give_back

__all__ = ["ScratchWeights", "in_scratch"]

Array = npt.NDArray[Any]

_SMALLEST = 64 << 10
"""Bytes. Smaller arrays stay in memory."""

_WRITE = "_get_offset_by_writing_data"
"""Function of coremltools that writes a constant into the file of weights."""


_current: ContextVar["ScratchWeights | None"] = ContextVar("scratch_weights", default=None)


class ScratchWeights:
    """Within this context, `in_scratch` moves arrays to a file, which is removed at the end.

    coremltools holds all constants of a program until it has written them. Those of the scratch file are read once,
    when they are written, and their pages are given back.

    Args:
        folder: Folder of the scratch file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # closed at the end
        self._token = _current.set(self)
        write = getattr(helper, _WRITE, None)
        self._patch = mock.patch.object(helper, _WRITE, lambda *args: _write(write, *args), create=True)
        self._patch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.stop()
        _current.reset(self._token)
        self._file.close()

    def store(self, array: Array) -> Array:
        """Return the same numbers, mapped from the file."""
        end = self._file.seek(0, 2)
        start = -(-end // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._file.seek(start)
        self._file.write(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), array.nbytes, offset=start, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, array.dtype).reshape(array.shape)


def in_scratch(array: Array) -> Array:
    """Return an array contiguous: mapped from the scratch file if there is one and the array is large."""
    scratch = _current.get()
    if scratch is None or array.nbytes < _SMALLEST:
        return np.asarray(array, order="C")
    return scratch.store(array)


def _write(write: Any, constant: Any, *args: Any) -> Any:
    """Write a constant with coremltools, and give its pages back."""
    offset = write(constant, *args)
    numbers = constant.val
    if isinstance(numbers, np.ndarray) and not numbers.flags.owndata:
        give_back(numbers.ctypes.data, numbers.nbytes)
    return offset
