"""Arrays that record the operators of ONNX that would compute them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from diffoundry.exporter.single_graph.image_rows import IMAGES, has_images, is_constant_of_images, one_row
from diffoundry.exporter.single_graph.operation import Operation, UnrecordedError

__all__ = ["GraphArray", "Trace"]


@dataclass(slots=True, eq=False)
class Trace:
    """The operations of one computation, in order; arrays are numbered as they appear.

    Attributes:
        operations: The recorded ones.
        count: Number of arrays.
        images: Array with a row for each image, whose number is known when the graph runs.
    """

    operations: list[Operation] = field(default_factory=list)
    count: int = 0
    images: "GraphArray | None" = None

    def array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> "GraphArray":
        """Return a new array, such as an input."""
        self.count += 1
        return GraphArray(self, self.count - 1, tuple(shape), np.dtype(dtype))

    def record(
        self, operator: str, inputs: Sequence[Any], shape: Sequence[int], dtype: npt.DTypeLike, **attributes: Any
    ) -> "GraphArray":
        """Record an operator with one output.

        Args:
            operator: Name of the operator.
            inputs: Arrays of this trace, and constants.
            shape: Of its output.
            dtype: Of its output.
            attributes: Of the operator.
        """
        (output,) = self._append(Operation, operator, inputs, [(shape, dtype)], attributes)
        return output

    def call(
        self, component: str, feeds: Mapping[str, Any], outputs: Mapping[str, tuple[Sequence[int], npt.DTypeLike]]
    ) -> dict[str, "GraphArray"]:
        """Record a call of a component.

        Args:
            component: Its name.
            feeds: Name of an input to its array.
            outputs: Name of an output to its shape and type.
        """
        more = {"component": component, "names": tuple(feeds)}
        arrays = self._append(Operation, "", list(feeds.values()), list(outputs.values()), {}, **more)
        return dict(zip(outputs, arrays, strict=True))

    def rows(self, count: int) -> "GraphArray":
        """Return the number of rows that are `count` in the recorded call, a multiple of `IMAGES`: int64 (1,)."""
        assert self.images is not None, "set before anything is recorded"
        images = self.record("Shape", [self.images], (1,), np.int64, start=0, end=1)
        return images if count == IMAGES else images * np.array([count // IMAGES])

    def expand(self, row: Any, count: int) -> "GraphArray":
        """Repeat an array of one row; `count` is as in `rows`."""
        shape = (count, *row.shape[1:])
        sizes = _concatenate([self.rows(count), np.array(shape[1:], np.int64)]) if shape[1:] else self.rows(count)
        return self.record("Expand", [row, sizes], shape, row.dtype)

    def _append(
        self,
        kind: Callable[..., Operation],
        operator: str,
        inputs: Sequence[Any],
        outputs: Sequence[tuple[Sequence[int], npt.DTypeLike]],
        attributes: Mapping[str, Any],
        **more: Any,
    ) -> list["GraphArray"]:
        arrays = [self.array(*one) for one in outputs]
        given = tuple(one.number if isinstance(one, GraphArray) else np.asarray(one) for one in inputs)
        numbers = tuple(one.number for one in arrays)
        self.operations.append(
            kind(operator=operator, inputs=given, attributes=dict(attributes), outputs=numbers, **more)
        )
        return arrays


class GraphArray:
    """An array of known shape and unknown values, which NumPy's functions and operators take.

    Attributes:
        trace: Records what is computed of it.
        number: Of the array in the trace.
        shape: Its sizes.
        dtype: Of its numbers.
    """

    def __init__(self, trace: Trace, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.trace = trace
        self.number = number
        self.shape = shape
        self.dtype = dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> NoReturn:
        raise UnrecordedError("a decision by its values")

    def __iter__(self) -> NoReturn:
        raise UnrecordedError("iteration")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise UnrecordedError("a conversion to an array")

    def __add__(self, other: Any) -> "GraphArray":
        return _binary("Add", self, other)

    def __radd__(self, other: Any) -> "GraphArray":
        return _binary("Add", other, self)

    def __sub__(self, other: Any) -> "GraphArray":
        return _binary("Sub", self, other)

    def __rsub__(self, other: Any) -> "GraphArray":
        return _binary("Sub", other, self)

    def __mul__(self, other: Any) -> "GraphArray":
        return _binary("Mul", self, other)

    def __rmul__(self, other: Any) -> "GraphArray":
        return _binary("Mul", other, self)

    def __truediv__(self, other: Any) -> "GraphArray":
        return _binary("Div", self, other)

    def __rtruediv__(self, other: Any) -> "GraphArray":
        return _binary("Div", other, self)

    def __getitem__(self, key: Any) -> "GraphArray":
        keys = key if isinstance(key, tuple) else (key,)
        if any(not isinstance(one, slice) or one.step not in (None, 1) for one in keys):
            raise UnrecordedError("indexing by anything but slices")
        spans = [one.indices(size) for one, size in zip(keys, self.shape, strict=False)]
        kept = [(axis, start, stop) for axis, (start, stop, _) in enumerate(spans) if stop - start != self.shape[axis]]
        if not kept:
            return self
        if kept[0][0] == 0 and kept[0][1] < kept[0][2] and has_images(self):
            return self._take_rows(*kept[0][1:])[(slice(None), *keys[1:])]
        shape = list(self.shape)
        for axis, start, stop in kept:
            shape[axis] = max(stop - start, 0)
        bounds = [np.array(column, np.int64) for column in zip(*((a, b, c) for c, a, b in kept), strict=True)]
        return self.trace.record("Slice", [self, *bounds], shape, self.dtype)

    def _take_rows(self, start: int, stop: int) -> "GraphArray":
        """Return the rows of some images, such as the second half."""
        if start % IMAGES or stop % IMAGES:
            raise UnrecordedError("a part of the images of a call")
        first = self.trace.rows(start) if start else np.zeros(1, np.int64)
        inputs = [self, first, self.trace.rows(stop), np.zeros(1, np.int64)]
        return self.trace.record("Slice", inputs, (stop - start, *self.shape[1:]), self.dtype)

    def astype(self, dtype: npt.DTypeLike, copy: bool = True) -> "GraphArray":  # noqa: ARG002 - ndarray's signature
        """Convert; the array itself where it is of this type."""
        wanted = np.dtype(dtype)
        return self if wanted == self.dtype else self.trace.record("Cast", [self], self.shape, wanted, to=wanted.name)

    def reshape(self, *shape: Any) -> "GraphArray":
        """Return the numbers in another shape; one size may be -1."""
        sizes = list(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else list(shape)
        if -1 in sizes:
            known = math.prod(size for size in sizes if size != -1)
            sizes[sizes.index(-1)] = math.prod(self.shape) // known
        same = sizes[:1] == [self.shape[0]]
        if has_images(self) and not same:
            raise UnrecordedError("an array in which rows of images are joined")
        written = [0, *sizes[1:]] if same else sizes  # 0 is the size of the input
        return self.trace.record("Reshape", [self, np.array(written, np.int64)], sizes, self.dtype)

    def transpose(self, *axes: Any) -> "GraphArray":
        """Order the axes otherwise."""
        order = list(axes[0]) if len(axes) == 1 and not isinstance(axes[0], int) else list(axes)
        order = order or list(range(self.ndim))[::-1]
        shape = [self.shape[axis] for axis in order]
        return self.trace.record("Transpose", [self], shape, self.dtype, perm=order)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> "GraphArray":
        if method != "__call__" or options or ufunc not in _UFUNCS:
            raise UnrecordedError(ufunc.__name__)
        return _UFUNCS[ufunc](*inputs)

    def __array_function__(
        self, function: Callable[..., Any], _types: Any, arguments: Sequence[Any], options: Mapping[str, Any]
    ) -> Any:
        if function not in _FUNCTIONS:
            raise UnrecordedError(function.__name__)
        return _FUNCTIONS[function](*arguments, **options)


def _trace_of(arrays: Sequence[Any]) -> Trace:
    return next(one.trace for one in arrays if isinstance(one, GraphArray))


def _binary(operator: str, first: Any, second: Any) -> GraphArray:
    """Record an operator of two arrays or numbers; Python's numbers take the type of the other."""
    pair = [one.item() if isinstance(one, np.generic) and one.dtype == np.float32 else one for one in (first, second)]
    pair = [one_row(one) if isinstance(one, np.ndarray) and has_images(one) else one for one in pair]
    types = [one if isinstance(one, int | float) else one.dtype for one in pair]
    dtype = np.result_type(*types)
    shape = np.broadcast_shapes(*(np.shape(one) if not isinstance(one, GraphArray) else one.shape for one in pair))
    inputs = [one.astype(dtype) if isinstance(one, GraphArray) else np.asarray(one, dtype) for one in pair]
    return _trace_of(inputs).record(operator, inputs, shape, dtype)


def _concatenate(arrays: Sequence[Any], axis: int = 0) -> GraphArray:
    dtype = np.result_type(*(one.dtype for one in arrays))
    if len(arrays) == 1:
        only: GraphArray = arrays[0]
        return only
    axis %= arrays[0].ndim
    shape = list(arrays[0].shape)
    shape[axis] = sum(one.shape[axis] for one in arrays)
    same = [one.astype(dtype, copy=False) for one in arrays]
    trace = _trace_of(same)
    same = [trace.expand(one_row(one), len(one)) if is_constant_of_images(one) else one for one in same]
    return trace.record("Concat", same, shape, dtype, axis=axis)


def _stack(arrays: Sequence[Any], axis: int = 0) -> GraphArray:
    return _concatenate([_expand_dims(one, axis) for one in arrays], axis=axis)


def _expand_dims(array: Any, axis: int) -> Any:
    if not isinstance(array, GraphArray):
        return np.expand_dims(array, axis)
    place = axis % (array.ndim + 1)
    return array.reshape(*array.shape[:place], 1, *array.shape[place:])


def _split(array: GraphArray, parts: int | Sequence[int], axis: int = 0) -> list[GraphArray]:
    length = array.shape[axis]
    ends = list(range(length // parts, length, length // parts)) if isinstance(parts, int) else list(parts)
    before = (slice(None),) * (axis % array.ndim)
    return [array[(*before, slice(a, b))] for a, b in zip([0, *ends], [*ends, length], strict=True)]


def _repeat(array: GraphArray, repeats: int, axis: int) -> GraphArray:
    if repeats == 1:
        return array
    shape = list(array.shape)
    shape[axis] *= repeats
    if array.shape[axis] != 1:
        raise UnrecordedError("repeat of several rows")
    if axis == 0 and repeats % IMAGES == 0:
        return array.trace.expand(array, repeats)
    return _concatenate([array] * repeats, axis=axis)


def _pad(array: GraphArray, widths: Sequence[Any], mode: str = "constant") -> GraphArray:
    pairs = [(widths[0], widths[1])] * array.ndim if isinstance(widths[0], int) else [tuple(pair) for pair in widths]
    if mode != "constant" or len(pairs) != array.ndim:
        raise UnrecordedError("pad")
    shape = [size + before + after for size, (before, after) in zip(array.shape, pairs, strict=True)]
    pads = np.array([pair[0] for pair in pairs] + [pair[1] for pair in pairs], np.int64)
    return array.trace.record("Pad", [array, pads], shape, array.dtype) if pads.any() else array


def _clip(array: GraphArray, least: float, most: float) -> GraphArray:
    bounds = [np.asarray(one, array.dtype) for one in (least, most)]
    return array.trace.record("Clip", [array, *bounds], array.shape, array.dtype)


def _round(array: GraphArray, decimals: int = 0) -> GraphArray:
    if decimals:
        raise UnrecordedError("round to decimals")
    return array.trace.record("Round", [array], array.shape, array.dtype)


_UFUNCS: dict[np.ufunc, Callable[..., GraphArray]] = {
    np.add: lambda a, b: _binary("Add", a, b),
    np.subtract: lambda a, b: _binary("Sub", a, b),
    np.multiply: lambda a, b: _binary("Mul", a, b),
    np.divide: lambda a, b: _binary("Div", a, b),
    np.sin: lambda a: a.trace.record("Sin", [a], a.shape, a.dtype),
    np.cos: lambda a: a.trace.record("Cos", [a], a.shape, a.dtype),
    np.maximum: lambda a, b: _binary("Max", a, b),
}

_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.concatenate: _concatenate,
    np.stack: _stack,
    np.split: _split,
    np.repeat: _repeat,
    np.pad: _pad,
    np.clip: _clip,
    np.round: _round,
    np.expand_dims: _expand_dims,
    np.zeros_like: lambda array: np.zeros(array.shape, array.dtype),
}
