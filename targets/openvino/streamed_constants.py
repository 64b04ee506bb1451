"""Constants of a model that are read when the model is written. Until then they take no memory."""

import mmap
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.memory import give_back
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.nodes import new_constant, nodes_of, replace

__all__ = ["NotStreamedError", "StreamedConstants", "derived_constant"]

Array = npt.NDArray[Any]

_SMALLEST = 256 << 10
"""Bytes. Smaller constants stay as they are."""

_MARK = (1234.0, 771.0, 1999.0, 58.0)
"""First numbers of a streamed constant, before two that say which one it is. Halves hold whole numbers up to 2048."""

_BASE = 2048

_LARGEST, _LEAST = 65504.0, 2.0**-24
"""Of the numbers that halves hold."""

_OUTSIDE = 0.7
"""Share of numbers that halves do not hold, below OpenVINO's 0.75 from which on it keeps a constant in float32."""

_PIECE = 1 << 24
"""Elements that are converted at once."""

_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0
"""From linux/mman.h; `mmap` has it since Python 3.13."""


class NotStreamedError(Exception):
    """OpenVINO has computed with a constant, or would store its numbers in another type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Constant:
    """A constant without memory.

    Attributes:
        array: Pages of zeros after the mark, which take no memory until they are written.
        read: Returns the numbers.
    """

    array: Array
    read: Callable[[], Array]


_current: ContextVar["StreamedConstants | None"] = ContextVar("streamed_constants", default=None)


class StreamedConstants:
    """Within this context, large constants of a model hold no numbers, only a mark and the way to make them.

    OpenVINO's transformations move weights and do not look at them. It writes the model with the marks, and `fill`
    writes the numbers where the marks are.
    """

    def __init__(self) -> None:
        self._constants: dict[int, _Constant] = {}
        self._order: list[_Constant] = []

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)

    def take_over(self, model: ov.Model) -> None:
        """Replace the large constants of a model that has just been read from a mapped file."""
        for node in nodes_of(model, "Constant"):
            if _is_large(node):
                made = self.constant(node.data.shape, partial(_read_mapped, node), node.get_friendly_name())
                made.set_names(node.output(0).get_names())
                replace(node.output(0), made)

    def constant(self, shape: Sequence[int], read: Callable[[], Array], name: str) -> ov.Output:
        """Make a constant in float32.

        Args:
            shape: Its shape.
            read: Returns its numbers.
            name: Its friendly name.
        """
        size = int(np.prod(shape))
        pages = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        array = np.frombuffer(pages, np.float32)
        array[: len(_MARK) + 2] = (*_MARK, *divmod(len(self._order), _BASE))
        held = _Constant(array=array.reshape(shape), read=read)
        self._constants[array.ctypes.data] = held
        self._order.append(held)
        node = ov.opset13.constant(held.array, shared_memory=True)
        node.set_friendly_name(name)
        output: ov.Output = node.output(0)
        return output

    def holds(self, array: Array) -> bool:
        """Return True for the array of a streamed constant."""
        return array.ctypes.data in self._constants

    def read(self, array: Array) -> Array:
        """Return the numbers of a constant, streamed or not."""
        held = self._constants.get(array.ctypes.data)
        return array if held is None else held.read()

    def check(self, model: ov.Model) -> None:
        """Check that every large constant of a model is streamed.

        Raises:
            NotStreamedError: A transformation has made a new one.
        """
        for node in nodes_of(model, "Constant"):
            if _is_large(node) and not self.holds(node.data):
                raise NotStreamedError(node.get_friendly_name())

    def fill(self, path: Path) -> None:
        """Write the numbers into the file of weights of a model that was written with this context's constants.

        Args:
            path: The .xml file.

        Raises:
            NotStreamedError: A constant has to be stored in float32.
        """
        with path.with_suffix(".bin").open("r+b") as file:
            for layer in ET.parse(path).iterfind("layers/layer"):  # noqa: S314  # OpenVINO has just written it
                data = layer.find("data")
                if layer.get("type") == "Const" and data is not None and data.get("element_type") in ("f16", "f32"):
                    self._fill_one(file, data.attrib)

    def _fill_one(self, file: Any, place: dict[str, str]) -> None:
        dtype = np.dtype(np.float16 if place["element_type"] == "f16" else np.float32)
        offset, count = int(place["offset"]), int(place["size"]) // dtype.itemsize
        file.seek(offset)
        mark = np.frombuffer(file.read((len(_MARK) + 2) * dtype.itemsize), dtype)
        if count * 4 < _SMALLEST or tuple(mark[: len(_MARK)]) != _MARK:
            return
        held = self._order[int(mark[-2]) * _BASE + int(mark[-1])]
        numbers = np.ascontiguousarray(held.read(), np.float32).reshape(-1)
        assert numbers.size == count == held.array.size, f"{place}: {numbers.size} numbers for {held.array.shape}"
        if dtype == np.float16 and _is_outside(numbers):
            raise NotStreamedError(str(place))
        file.seek(offset)
        for start in range(0, count, _PIECE):
            file.write(_converted(numbers[start : start + _PIECE], dtype))


def derived_constant(arrays: Sequence[Array], change: Callable[..., Array], name: str) -> ov.Output:
    """Make a constant from those of a model: at once, or when it is written if one of them is streamed.

    Args:
        arrays: From `nodes.constant`.
        change: Function of as many arrays.
        name: Its friendly name.
    """
    streamed = _current.get()
    if streamed is None or not any(map(streamed.holds, arrays)):
        return new_constant(change(*arrays), name)
    shape = change(*(np.broadcast_to(np.zeros((), array.dtype), array.shape) for array in arrays)).shape
    return streamed.constant(shape, lambda: change(*map(streamed.read, arrays)), name)


def _is_large(node: ov.Node) -> bool:
    return bool(node.get_element_type() == ov.Type.f32 and node.data.nbytes >= _SMALLEST)


def _read_mapped(node: ov.Node) -> Array:
    """Copy a constant of a mapped file, whose pages are given back."""
    data = node.data
    copy: Array = data.copy()
    give_back(data.ctypes.data, data.nbytes)
    return copy


def _is_outside(numbers: Array) -> bool:
    """Return True if halves hold too few of these numbers; OpenVINO: `CompressFloatConstants`."""
    count = 0
    for start in range(0, numbers.size, _PIECE):
        sizes = np.abs(numbers[start : start + _PIECE])
        count += int(np.count_nonzero((sizes > _LARGEST) | ((sizes < _LEAST) & (sizes > 0))))
    return count > _OUTSIDE * numbers.size


def _converted(numbers: Array, dtype: np.dtype[Any]) -> Array:
    return numbers if dtype == np.float32 else np.clip(numbers, -_LARGEST, _LARGEST).astype(dtype)
