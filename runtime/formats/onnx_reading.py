"""Reads the fields of an ONNX graph that a cut has to know, without a library for ONNX."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from diffoundry.runtime.formats.wire import Data, Field, fields, numbers

__all__ = ["FLOATS", "GraphFields", "GraphNode", "GraphValue", "read_graph"]

_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE = 1, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 4, 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_SUBGRAPHS = (6, 11)
"""Numbers of fields in onnx.proto: of GraphProto, NodeProto, TensorProto, ValueInfoProto and AttributeProto."""

_TYPES = {1: "tensor(float)", 6: "tensor(int32)", 7: "tensor(int64)", 9: "tensor(bool)", 10: "tensor(float16)",
          11: "tensor(double)", 16: "tensor(bfloat16)"}  # fmt: skip
"""TensorProto.DataType to ONNX Runtime's words."""

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)")

_WIDE = (7, 11, 13)
"""Types with 8 bytes a number: INT64, DOUBLE, UINT64. Others take 4 at most; a CPU computes halves as float32."""

_BITS = {2: 8, 3: 8, 17: 8, 21: 4, 22: 4}
"""Bits of UINT8, INT8, FLOAT8E4M3FN, UINT4 and INT4, in which weights stay in an open graph."""


@dataclass(kw_only=True, slots=True)
class GraphNode:
    """A node, and its place in the file."""

    place: Field
    op: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class GraphValue:
    """A value with a type. ONNX Runtime describes inputs and outputs by attributes of the same names.

    Attributes:
        name: Of the value.
        written: Its type, as bytes of the file.
        type: Its type in ONNX Runtime's words; "" for others.
        shape: Sizes, symbols, and None for what is not known.
    """

    name: str = ""
    written: bytes = b""
    type: str = ""
    shape: list[int | str | None] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class GraphFields:
    """The fields of a graph, in their order.

    Attributes:
        nodes: Those that depend on an input.
        constants: Outputs of the others, to their node.
        weights: Names of stored tensors, to their place and their bytes in memory.
        integers: Bytes of the stored tensors of eight bits and less, as they are stored.
        floats: Bytes of the others.
        values: Values with types.
        inputs, outputs: Names of values.
        others: All else, such as the graph's name.
        nested: True if a node holds a graph.
    """

    nodes: list[GraphNode] = field(default_factory=list)
    constants: dict[str, GraphNode] = field(default_factory=dict)
    weights: dict[str, tuple[Field, int]] = field(default_factory=dict)
    integers: int = 0
    floats: int = 0
    values: dict[str, GraphValue] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    others: list[Field] = field(default_factory=list)
    nested: bool = False

    def stored(self, names: Iterable[str]) -> tuple[list[GraphNode], list[str]]:
        """Return the constant nodes and the weights that make some values, in the order of the file."""
        nodes: dict[int, GraphNode] = {}
        weights: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            node = self.constants.get(name)
            if name in self.weights:
                weights.add(name)
            elif node is not None and node.place.begin not in nodes:
                nodes[node.place.begin] = node
                pending += node.inputs
        return [nodes[place] for place in sorted(nodes)], sorted(weights, key=lambda one: self.weights[one][0].begin)


def read_graph(data: Data, message: Field) -> GraphFields:
    """Read a graph.

    Args:
        data: The file.
        message: Place of the graph in it.

    Raises:
        ValueError: The bytes are no graph, or one that computes nothing.
        IndexError: The file ends before the graph.
    """
    graph, nodes = GraphFields(), []
    for one in fields(data, message.first, message.last):
        if one.number == _NODE:
            nodes.append(_read_node(data, one, graph))
        elif one.number == _INITIALIZER:
            name, size, stored = _read_tensor(data, one)
            graph.weights[name] = one, size
            if stored < size:
                graph.integers += stored
            else:
                graph.floats += size
        elif one.number in (_INPUT, _OUTPUT, _VALUE):
            value = _read_value(data, one)
            graph.values[value.name] = value
            if one.number != _VALUE:
                (graph.inputs if one.number == _INPUT else graph.outputs).append(value.name)
        else:
            graph.others.append(one)
    graph.inputs = [name for name in graph.inputs if name not in graph.weights]
    for node in nodes:
        constant = all(not name or name in graph.weights or name in graph.constants for name in node.inputs)
        if constant and not node.op.startswith("Random"):
            graph.constants |= dict.fromkeys(node.outputs, node)
        else:
            graph.nodes.append(node)
    if not graph.nodes or any(name in graph.constants for name in graph.outputs):
        raise ValueError("a graph that computes nothing")
    return graph


def _read_node(data: Data, place: Field, graph: GraphFields) -> GraphNode:
    node = GraphNode(place=place)
    for one in fields(data, place.first, place.last):
        if one.number == _NODE_INPUT:
            node.inputs.append(_text(data, one))
        elif one.number == _NODE_OUTPUT:
            node.outputs.append(_text(data, one))
        elif one.number == _NODE_OP:
            node.op = _text(data, one)
        elif one.number == _NODE_ATTRIBUTE:
            graph.nested |= any(part.number in _SUBGRAPHS for part in fields(data, one.first, one.last))
    return node


def _read_tensor(data: Data, place: Field) -> tuple[str, int, int]:
    """Return the name of a tensor, its bytes as float32 at least, and in an open graph."""
    name, sides, kind = "", [], 1
    for one in fields(data, place.first, place.last):
        if one.number == _TENSOR_NAME:
            name = _text(data, one)
        elif one.number == _TENSOR_DIMS:
            sides += numbers(data, one)
        elif one.number == _TENSOR_TYPE:
            kind = numbers(data, one)[0]
    count = math.prod(sides)
    size = count * (8 if kind in _WIDE else 4)
    return name, size, -(-count * _BITS[kind] // 8) if kind in _BITS else size


def _read_value(data: Data, place: Field) -> GraphValue:
    """Read a ValueInfoProto, whose TypeProto has the tensor's type in field 1: its elements, and its shape."""
    value = GraphValue()
    for one in fields(data, place.first, place.last):
        if one.number == _VALUE_NAME:
            value.name = _text(data, one)
        elif one.number == _VALUE_TYPE:
            value.written = data[one.first : one.last]
            for tensor in (part for part in fields(data, one.first, one.last) if part.number == 1):
                for part in fields(data, tensor.first, tensor.last):
                    if part.number == 1:
                        value.type = _TYPES.get(numbers(data, part)[0], "")
                    elif part.number == 2:
                        value.shape = [_read_side(data, side) for side in fields(data, part.first, part.last)]
    return value


def _read_side(data: Data, place: Field) -> int | str | None:
    """Read a dimension: a number in field 1, or a symbol in field 2."""
    for one in fields(data, place.first, place.last):
        if one.number in (1, 2):
            return numbers(data, one)[0] if one.number == 1 else _text(data, one)
    return None


def _text(data: Data, one: Field) -> str:
    return data[one.first : one.last].decode()
