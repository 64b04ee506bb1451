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

__all__ = ["NotStreamedError", "StreamedConstants", "derived_constant", "joined_constant"]

Array = npt.NDArray[Any]

_SMALLEST = 256 << 10
"""Bytes. Smaller constants stay as they are."""

_MARK = (1234.0, 771.0, 1999.0, 58.0)
"""First numbers of a streamed constant, before two that say which one it is. Halves hold whole numbers up to 2048."""

_BASE = 2048

_WHOLE_MARK = bytes.fromhex("d1ff0d12904dcbb7c3a5")
"""First bytes of a streamed constant in integers, before four that say which one it is."""

_FLOATS, _INTEGERS = ("f16", "f32"), ("i8", "u8", "i4", "u4")

_WEIGHTS = {("Convolution", 1), ("ConvolutionBackpropData", 1), ("MatMul", 1), ("Gather", 0)}
"""Operators, and their inputs that are weights."""

_DECOMPRESSION = ("Convert", "Multiply", "Reshape", "Subtract", "Unsqueeze")
"""Operators between a weight in integers, or its scale, and its layer."""

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
        parts: Return the numbers, part by part along axis 0.
    """

    array: Array
    parts: Sequence[Callable[[], Array]]

    def read(self) -> Array:
        """Return all numbers."""
        arrays = [part() for part in self.parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


_current: ContextVar["StreamedConstants | None"] = ContextVar("streamed_constants", default=None)


class StreamedConstants:
    """Within this context, large constants of a model hold no numbers, only a mark and the way to make them.

    OpenVINO's transformations move weights and do not look at them. It writes the model with the marks, and `fill`
    writes the numbers where the marks are.
    """

    def __init__(self) -> None:
        self._constants: dict[int, _Constant] = {}
        self._order: list[_Constant] = []
        self._known: dict[int, ov.Output] = {}
        self._expected = 0

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)

    def take_over(self, model: ov.Model) -> None:
        """Replace the large weights of a model that has just been read from a mapped file.

        Weights that are multiplied with constants stay, since OpenVINO computes with them.
        """
        computed = _computed_nodes(model)
        for node in nodes_of(model, "Constant"):
            if _is_large(node) and not _is_weight(node, computed):
                self.known(node.output(0))
            elif _is_large(node):
                parts, kind = [partial(_read_mapped, node)], node.get_element_type()
                made = self.constant(tuple(node.shape), parts, node.get_friendly_name(), kind)
                made.set_names(node.output(0).get_names())
                replace(node.output(0), made)

    def constant(
        self, shape: Sequence[int], parts: Sequence[Callable[[], Array]], name: str, kind: ov.Type = ov.Type.f32
    ) -> ov.Output:
        """Make a constant.

        Args:
            shape: Its shape.
            parts: Return its numbers, part by part along axis 0; those of less than eight bits as OpenVINO packs them.
            name: Its friendly name.
            kind: Its type: float32, or an integer of at most eight bits.
        """
        size, number = -(-int(np.prod(shape)) * kind.bitwidth // 8), len(self._order)
        if kind == ov.Type.f32:
            array = np.frombuffer(_untouched_pages(size), np.float32)
            array[: len(_MARK) + 2] = (*_MARK, *divmod(number, _BASE))
        else:
            array = np.frombuffer(_untouched_pages(size), np.uint8 if kind in (ov.Type.u8, ov.Type.u4) else np.int8)
            mark = _WHOLE_MARK + number.to_bytes(4, "little")
            array.view(np.uint8)[: len(mark)] = np.frombuffer(mark, np.uint8)
        held = _Constant(array=array if kind.bitwidth < 8 else array.reshape(shape), parts=parts)
        self._constants[array.ctypes.data] = held
        self._order.append(held)
        node = ov.op.Constant(ov.Tensor(held.array, list(shape), kind), shared_memory=True)
        node.set_friendly_name(name)
        output: ov.Output = node.output(0)
        return output

    def known(self, output: ov.Output) -> ov.Output:
        """Note a large constant that holds its own numbers, and return it."""
        self._known[output.get_node().data.ctypes.data] = output
        return output

    def holds(self, array: Array) -> bool:
        """Return True for the array of a streamed constant."""
        return array.ctypes.data in self._constants

    def read(self, array: Array) -> Array:
        """Return the numbers of a constant, streamed or not. OpenVINO may have given it another shape."""
        held = self._constants.get(array.ctypes.data)
        return array if held is None else held.read().reshape(array.shape)

    def check(self, model: ov.Model) -> None:
        """Check that OpenVINO has made no large constant, and count the streamed ones for `fill`.

        Raises:
            NotStreamedError: A transformation has computed with a weight.
        """
        found = {node.data.ctypes.data: node for node in nodes_of(model, "Constant") if _is_number(node)}
        for address, node in found.items():
            if _is_large(node) and address not in self._constants and address not in self._known:
                raise NotStreamedError(node.get_friendly_name())
        self._expected = len(found.keys() & self._constants.keys())

    def fill(self, path: Path) -> None:
        """Write the numbers into the file of weights of a model that was written with this context's constants.

        Args:
            path: The .xml file.

        Raises:
            NotStreamedError: A constant has to be stored in float32, or its mark is not there.
        """
        filled = set()
        with path.with_suffix(".bin").open("r+b") as file:
            for layer in ET.parse(path).iterfind("layers/layer"):  # noqa: S314  # OpenVINO has just written it
                data = layer.find("data")
                kind = None if data is None else data.get("element_type")
                if data is not None and layer.get("type") == "Const" and kind in _FLOATS:
                    filled.add(self._fill_one(file, data.attrib))
                elif data is not None and layer.get("type") == "Const" and kind in _INTEGERS:
                    filled.add(self._fill_whole(file, data.attrib))
        if len(filled - {None}) != self._expected:
            raise NotStreamedError(f"{len(filled - {None})} of {self._expected} constants found in {path}")

    def _fill_one(self, file: Any, place: dict[str, str]) -> int | None:
        """Write a constant, and return its number; None for one that is not streamed."""
        dtype = np.dtype(np.float16 if place["element_type"] == "f16" else np.float32)
        offset, count = int(place["offset"]), int(place["size"]) // dtype.itemsize
        file.seek(offset)
        mark = np.frombuffer(file.read((len(_MARK) + 2) * dtype.itemsize), dtype)
        if tuple(mark[: len(_MARK)]) != _MARK:
            return None
        number = int(mark[-2]) * _BASE + int(mark[-1])
        held = self._order[number]
        file.seek(offset)
        written, outside = 0, 0
        for part in held.parts:
            numbers = np.ascontiguousarray(part(), np.float32).reshape(-1)
            written += numbers.size
            for start in range(0, numbers.size, _PIECE):
                piece = numbers[start : start + _PIECE]
                outside += 0 if dtype == np.float32 else _outside(piece)
                file.write(_converted(piece, dtype))
        assert written == count == held.array.size, f"{place}: {written} numbers for {held.array.shape}"
        if outside > _OUTSIDE * count:
            raise NotStreamedError(str(place))
        return number

    def _fill_whole(self, file: Any, place: dict[str, str]) -> int | None:
        """As `_fill_one`, for a constant in integers: its bytes are written as they are."""
        offset, size = int(place["offset"]), int(place["size"])
        file.seek(offset)
        mark = file.read(len(_WHOLE_MARK) + 4)
        if mark[: len(_WHOLE_MARK)] != _WHOLE_MARK or size < len(mark):
            return None
        number = int.from_bytes(mark[len(_WHOLE_MARK) :], "little")
        file.seek(offset)
        written = sum(file.write(np.ascontiguousarray(part()).data) for part in self._order[number].parts)
        assert written == size == self._order[number].array.nbytes, f"{place}: {written} bytes"
        return number


def derived_constant(arrays: Sequence[Array], change: Callable[..., Array], name: str) -> ov.Output:
    """Make a constant from those of a model: at once, or when it is written if one of them is streamed.

    Args:
        arrays: From `nodes.constant`.
        change: Function of as many arrays.
        name: Its friendly name.
    """
    streamed = _current.get()
    if streamed is None:
        return new_constant(change(*arrays), name)
    if not any(map(streamed.holds, arrays)):
        return streamed.known(new_constant(change(*arrays), name))
    shape = change(*(np.broadcast_to(np.zeros((), array.dtype), array.shape) for array in arrays)).shape
    if arrays[0].itemsize * int(np.prod(shape)) < _SMALLEST:  # such as a part of a constant that is not
        return new_constant(change(*map(streamed.read, arrays)), name)
    return streamed.constant(shape, [lambda: change(*map(streamed.read, arrays))], name, _kind(arrays))


def joined_constant(arrays: Sequence[Array], axis: int, name: str) -> ov.Output:
    """Make a constant from those of a model, one after the other along an axis; arguments as `derived_constant`."""
    streamed = _current.get()
    if streamed is None or axis or not any(map(streamed.holds, arrays)):
        return derived_constant(arrays, lambda *parts: np.concatenate(parts, axis), name)
    shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
    return streamed.constant(shape, [partial(streamed.read, array) for array in arrays], name, _kind(arrays))


def _kind(arrays: Sequence[Array]) -> ov.Type:
    (kind,) = {array.dtype for array in arrays}
    return ov.Type(kind)


def _untouched_pages(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)


def _is_number(node: ov.Node) -> bool:
    return node.get_element_type().get_type_name() in ("f32", *_INTEGERS)


def _is_large(node: ov.Node) -> bool:
    return _is_number(node) and bool(node.get_byte_size() >= _SMALLEST)


def _computed_nodes(model: ov.Model) -> frozenset[str]:
    """Return the names of nodes that depend on an input of the model; others are constants in the end."""
    found: set[str] = set()
    for node in model.get_ordered_ops():
        sources = (value.get_node().get_name() for value in node.input_values())
        if node.get_type_name() in ("Parameter", "ReadValue") or any(name in found for name in sources):
            found.add(node.get_name())
    return frozenset(found)


def _is_weight(node: ov.Node, computed: frozenset[str]) -> bool:
    """Return True for a constant that only layers of computed tensors read: what OpenVINO makes of it is as large.

    Integers reach their layer through a conversion and a scale, which is a constant too.

    Args:
        node: The constant, or what is made of it.
        computed: As `_computed_nodes` returns it.
    """
    readers = [(one.get_node(), one.get_index()) for one in node.output(0).get_target_inputs()]
    return all(
        ((reader.get_type_name(), index) in _WEIGHTS and reader.get_name() in computed)
        or reader.get_type_name() == "ShapeOf"
        or (reader.get_type_name() in _DECOMPRESSION and _is_weight(reader, computed))
        for reader, index in readers
    )


def _read_mapped(node: ov.Node) -> Array:
    """Copy a constant of a mapped file, whose pages are given back."""
    data = node.data
    copy: Array = data.copy()
    give_back(data.ctypes.data, data.nbytes)
    return copy


def _outside(numbers: Array) -> int:
    """Count the numbers that halves do not hold; OpenVINO: `CompressFloatConstants`."""
    sizes = np.abs(numbers)
    return int(np.count_nonzero((sizes > _LARGEST) | ((sizes < _LEAST) & (sizes > 0))))


def _converted(numbers: Array, dtype: np.dtype[Any]) -> Array:
    return numbers if dtype == np.float32 else np.clip(numbers, -_LARGEST, _LARGEST).astype(dtype)
