"""Cuts an ONNX graph into graphs that run one after another, without a library for ONNX."""

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffoundry.runtime.engines.cutting import cut_places, pack
from diffoundry.runtime.formats.onnx_reading import FLOATS, GraphValue, read_graph
from diffoundry.runtime.formats.wire import Field, fields, tagged, write_varint

__all__ = ["OnnxPieces", "Piece"]

_GRAPH = 7
_NODE, _INPUT, _OUTPUT, _VALUE = 1, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 4, 5
_VALUE_NAME, _VALUE_TYPE = 1, 2
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 8, 20
"""Numbers of fields in onnx.proto: of ModelProto, GraphProto, NodeProto, ValueInfoProto and AttributeProto."""

_INTS = 7
"""AttributeProto.AttributeType."""

_ENDS = ("Add", "Concat", "Conv", "Gemm", "MatMul")
"""Operators after which a graph may be cut. Others may be in the middle of what ONNX Runtime fuses."""

_HANDED = "/handed"
"""Behind the name of a value in the inputs of a piece that restores its layout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One of the graphs.

    Attributes:
        model: Makes the graph, as bytes of an ONNX file. External weights are in the files of the whole graph.
        feeds: Input of the graph to the value that it takes: an input of the whole graph, or made by earlier pieces.
        outputs: Values that it makes for later pieces or the caller; outputs of the graph.
        last: Values that neither a later piece nor the caller reads.
        weights: Most bytes of its weights in memory, as float32.
    """

    model: Callable[[], bytes]
    feeds: Mapping[str, str]
    outputs: tuple[str, ...]
    last: tuple[str, ...]
    weights: int


class OnnxPieces:
    """A graph that is cut where ONNX Runtime computes the same numbers in two sessions as in one.

    A cut is allowed behind an operator that ends a block, where every float that crosses it is read more than once:
    then nothing is fused across it. One fusion reaches further: ONNX Runtime's convolutions in its own layout (NCHWc)
    add the other term of a sum themselves if that has the layout too. A value that lost the layout at a cut gets it
    back from a pooling of single pixels, which changes no number.

    Attributes:
        inputs: Inputs of the graph.
        outputs: Outputs of the graph.
        weights: Most bytes of its weights in memory, as float32.
        integers: Bytes of its weights of eight bits and less, as they are stored.
        floats: Bytes of its other weights in memory, as float32.
    """

    def __init__(self, path: Path) -> None:
        """Read the graph; its external weights are not read.

        Args:
            path: The graph. It stays mapped.

        Raises:
            ValueError: The file is no ONNX graph.
        """
        try:
            with path.open("rb") as stream:
                self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            top = list(fields(self._data, 0, len(self._data)))
            self._others = [one for one in top if one.number != _GRAPH]
            (graph,) = (one for one in top if one.number == _GRAPH)
            self._graph = read_graph(self._data, graph)
            self.inputs, self.outputs = (
                tuple(self._graph.values[name] for name in names) for names in (self._graph.inputs, self._graph.outputs)
            )
        except (ValueError, IndexError, KeyError) as error:
            raise ValueError(f"{path.name} is no ONNX graph") from error
        self.weights = sum(size for _, size in self._graph.weights.values())
        self.integers, self.floats = self._graph.integers, self._graph.floats
        self._made = {name: place for place, node in enumerate(self._graph.nodes) for name in node.outputs}
        self._readers: dict[str, list[int]] = {}
        for place, node in enumerate(self._graph.nodes):
            for name in node.inputs:
                self._readers.setdefault(name, []).append(place)

    def cut(self, most: int) -> list[Piece]:
        """Return the pieces in the order in which they run.

        Args:
            most: Bytes of weights of a piece, as float32. A piece that cannot be cut further may have more.
        """
        nodes = self._graph.nodes
        return [self._piece(*piece) for piece in pack(self._places(), len(nodes), self._weights, most)]

    def _places(self) -> Iterator[int]:
        """Yield the numbers of nodes before which the graph may be cut."""
        nodes = self._graph.nodes
        spans = [
            (place, readers[-1])
            for place, node in enumerate(nodes)
            for name in node.outputs
            if (readers := self._readers.get(name)) and self._is_tied(name, readers)
        ]
        places = () if self._graph.nested else cut_places(len(nodes), spans)
        return (place for place in places if nodes[place - 1].op in _ENDS)

    def _is_tied(self, name: str, readers: Sequence[int]) -> bool:
        """Return True for a value that may be fused with its only reader, or whose type is not known."""
        value = self._graph.values.get(name)
        if value is None or not value.type:
            return True
        return value.type in FLOATS and len(readers) == 1 and self._graph.nodes[readers[0]].op != "Concat"

    def _weights(self, start: int, end: int) -> dict[str, int]:
        """Return the bytes of the weights of some nodes."""
        names = self._graph.stored(name for node in self._graph.nodes[start:end] for name in node.inputs)[1]
        return {name: self._graph.weights[name][1] for name in names}

    def _piece(self, start: int, end: int, weights: int) -> Piece:
        """Return the graph of some nodes."""
        graph, nodes = self._graph, self._graph.nodes[start:end]
        made = dict.fromkeys(name for node in nodes for name in node.outputs if name)
        read = dict.fromkeys(name for node in nodes for name in node.inputs if name)
        taken = [name for name in read if not (name in made or name in graph.constants or name in graph.weights)]
        given = [name for name in made if name in graph.outputs or self._last(name) >= end]
        restored = {name for name in taken if self._has_layout(name) and self._is_added(name, start, end)}
        feeds = {f"{name}{_HANDED}" if name in restored else name: name for name in taken}
        return Piece(
            model=partial(self._write, start, end, feeds, given),
            feeds=feeds,
            outputs=tuple(given),
            last=tuple(name for name in taken if self._last(name) < end and name not in graph.outputs),
            weights=weights,
        )

    def _write(self, start: int, end: int, feeds: Mapping[str, str], given: Sequence[str]) -> bytes:
        """Return the file of a piece."""
        graph, nodes = self._graph, self._graph.nodes[start:end]
        constants, weights = graph.stored(name for node in nodes for name in node.inputs)
        restored = [name for new, name in feeds.items() if new != name]
        body = [*map(self._copy, graph.others), *map(_restore, restored)]
        body += [self._copy(node.place) for node in (*constants, *nodes)]
        body += [self._copy(graph.weights[name][0]) for name in weights]
        body += [_describe(_INPUT, new, graph.values[name]) for new, name in feeds.items()]
        body += [_describe(_OUTPUT, name, graph.values[name]) for name in given]
        inner = [*restored, *(name for node in (*constants, *nodes) for name in node.outputs if name not in given)]
        body += [_describe(_VALUE, name, graph.values[name]) for name in inner if name in graph.values]
        return b"".join([*map(self._copy, self._others), tagged(_GRAPH, b"".join(body))])

    def _copy(self, place: Field) -> bytes:
        return self._data[place.begin : place.last]

    def _last(self, name: str) -> int:
        """Return the last node that reads a value; -1 for none."""
        return self._readers.get(name, [-1])[-1]

    def _is_added(self, name: str, start: int, end: int) -> bool:
        return any(start <= place < end and self._graph.nodes[place].op == "Add" for place in self._readers[name])

    def _has_layout(self, name: str) -> bool:
        """Return True for the result of a convolution of images, or a sum of such results."""
        pending = [name]
        while pending:
            name = pending.pop()
            value, place = self._graph.values.get(name), self._made.get(name)
            node = None if place is None else self._graph.nodes[place]
            if node is None or value is None or len(value.shape) != 4 or node.op not in ("Add", "Conv"):
                return False
            pending += node.inputs if node.op == "Add" else []
        return True


def _describe(number: int, name: str, value: GraphValue) -> bytes:
    return tagged(number, tagged(_VALUE_NAME, name.encode()) + tagged(_VALUE_TYPE, value.written))


def _restore(name: str) -> bytes:
    """Return a node that makes a value of its handed form: MaxPool with a kernel of 1 x 1."""
    kind = write_varint(_ATTRIBUTE_TYPE << 3) + write_varint(_INTS)
    sides = tagged(_ATTRIBUTE_NAME, b"kernel_shape") + tagged(_ATTRIBUTE_INTS, write_varint(1) * 2) + kind
    ends = tagged(_NODE_INPUT, f"{name}{_HANDED}".encode()) + tagged(_NODE_OUTPUT, name.encode())
    return tagged(_NODE, ends + tagged(_NODE_OP, b"MaxPool") + tagged(_NODE_ATTRIBUTE, sides))
