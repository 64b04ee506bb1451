"""Converts weights and compute to half precision, except for a list of nodes that stay in float32."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.exporter.passes.opset import OPSET
from diffoundry.targets.weight_data import convert_in_pieces, read_weight

__all__ = ["LARGEST", "HalfPrecision", "KeepList", "to_fp16"]

logger = logging.getLogger(__name__)

_FLOAT = ir.DataType.FLOAT

LARGEST = {
    ir.DataType.FLOAT16: 65504.0,
    ir.DataType.BFLOAT16: float.fromhex("0x1.fep127"),
}
"""Type to its largest number."""

_PINNED = {("Resize", 1), ("Resize", 2)}
"""Inputs that ONNX requires in float32 whatever the node computes in: Resize's roi and scales."""

_SMALLEST = 2.0**-24
"""Smallest positive number of fp16."""

_ANY_INPUT = {"Cast", "Shape", "Size"}
"""Operators that read any type, so their inputs need no cast."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepList:
    """Nodes that stay in float32.

    Attributes:
        op_types: Operators that stay everywhere. Range: its type is that of its bounds. ReduceL2: the squares that it
            adds up overflow where their root does not, as in the response norms of Würstchen and Stable Cascade.
        upstream_of: Operators that stay together with all nodes that lead only to them. Sin and Cos: the timestep
            embedding multiplies a step of up to 1000 by its frequencies, where half precision rounds to half a radian.
            Casts of floats to integers are among them always: a rounded index is another entry, as of T5's table of
            relative positions. So are divisions by sums that a number below half precision's range keeps from zero, up
            to the weights: linear attention, whose sums over all positions overflow too.
        nodes: Names of nodes found by calibration.
    """

    op_types: frozenset[str] = frozenset({"Range", "ReduceL2"})
    upstream_of: frozenset[str] = frozenset({"Sin", "Cos"})
    nodes: frozenset[str] = field(default_factory=frozenset)

    def select(self, graph: ir.Graph) -> set[ir.Node]:
        """The nodes of `graph` that stay."""
        kept = {node for node in graph if node.op_type in self.op_types or node.name in self.nodes}
        kept |= _upstream(node for node in graph if node.op_type in self.upstream_of or _makes_index(node))
        return kept | _upstream((node for node in graph if _divides_by_sums(node)), _has_weights)


@dataclass(frozen=True, kw_only=True)
class HalfPrecision(ir.passes.InPlacePass):
    """Converts weights and compute from float32; inputs and outputs of the graph stay float32.

    Given:
        %y = Conv(%x, %w)                       # float32 throughout, %x an input and %y an output of the graph
    Result:
        %x_half = Cast<to=FLOAT16>(%x)
        %y_half = Conv(%x_half, %w)             # %w: float16
        %y = Cast<to=FLOAT>(%y_half)

    The graph's inputs and outputs stay float32 because the runtime's loop is NumPy in float32, so every precision of a
    component has the same interface. The casts touch only latents: under a thousandth of a UNet's time. Finite
    constants beyond the type's range are clamped to its largest number, so that a mask of -3.4e38 stays a mask. As -inf
    its rows of softmax would be NaN. Weights are converted one at a time, while they are written.

    Attributes:
        dtype: FLOAT16 or BFLOAT16.
        keep: Nodes that stay in float32.
    """

    dtype: ir.DataType = ir.DataType.FLOAT16
    keep: KeepList = field(default_factory=KeepList)

    def requires(self, model: ir.Model) -> None:
        """Require a flat graph of known types whose constants are initializers, as `portable_passes` makes it."""
        if model.functions or any(node.op_type == "Constant" or _has_subgraph(node) for node in model.graph):
            raise ir.passes.PreconditionError(
                "half precision: got a graph with functions, Constant nodes or subgraphs; run portable_passes first"
            )
        untyped = _untyped(model.graph)
        if untyped is not None:
            raise ir.passes.PreconditionError(
                f"half precision: got a graph without the type of {untyped.name}; infer types first"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert every float32 value that no kept node computes."""
        graph = model.graph
        if not any(value.dtype == _FLOAT for node in graph for value in (*node.inputs, *node.outputs) if value):
            logger.debug("nothing is float32 in %s", graph.name)
            return ir.passes.PassResult(model, modified=False)
        kept = self.keep.select(graph)
        logger.debug("%d of %d nodes stay in float32", len(kept), len(graph))
        conversion = _Conversion(graph, self.dtype)
        for value in tuple(graph.initializers.values()):
            conversion.initializer(value, kept)
        for node in tuple(graph):
            if node not in kept:
                conversion.node(node)
        for node in tuple(graph):
            conversion.connect(node, in_half=node not in kept)
        conversion.outputs()
        return ir.passes.PassResult(model, modified=True)


def to_fp16(graph: ir.Model, keep: KeepList | None = None) -> ir.Model:
    """Convert an optimized graph to float16 in place and return it; see `HalfPrecision`."""
    return HalfPrecision(keep=keep or KeepList())(graph).model


class _Conversion:
    """The values of one graph converted so far, and the casts between the two types."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self._graph = graph
        self._dtype = dtype
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def initializer(self, value: ir.Value, kept: set[ir.Node]) -> None:
        """Convert a float32 initializer for the nodes that compute in half; kept nodes still read float32."""
        if value.dtype != _FLOAT:
            return
        half = [(node, i) for node, i in value.uses() if node not in kept and (node.op_type, i) not in _PINNED]
        if not half:
            return
        tensor = _half_tensor(value.const_value, self._dtype)
        if len(half) == len(value.uses()) and not value.is_graph_output():
            value.dtype, value.const_value = self._dtype, tensor
            return
        copy = ir.Value(
            name=f"{value.name}_half", type=ir.TensorType(self._dtype), shape=value.shape, const_value=tensor
        )
        self._graph.register_initializer(copy)
        for node, i in half:
            node.replace_input_with(i, copy)

    def node(self, node: ir.Node) -> None:
        """Make a node compute in half: its outputs, and the types that its attributes name."""
        for name, attribute in node.attributes.items():
            if name in {"to", "dtype"} and attribute.as_int() == _FLOAT:
                node.attributes[name] = ir.AttrInt64(name, int(self._dtype))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _FLOAT:
                node.attributes[name] = ir.AttrTensor(name, _half_tensor(attribute.as_tensor(), self._dtype))
        for output in node.outputs:
            if output.dtype == _FLOAT:
                output.dtype = self._dtype

    def connect(self, node: ir.Node, *, in_half: bool) -> None:
        """Cast the inputs of a node whose type differs from the one it computes in."""
        have, want = (_FLOAT, self._dtype) if in_half else (self._dtype, _FLOAT)
        if node.op_type in _ANY_INPUT:
            return
        for i, value in enumerate(node.inputs):
            if value is not None and value.dtype == have and (node.op_type, i) not in _PINNED:
                node.replace_input_with(i, self._cast(value, want))

    def outputs(self) -> None:
        """Restore the type and names of the graph's outputs."""
        for i, value in enumerate(self._graph.outputs):
            if value.dtype != self._dtype or value.producer() is None:
                continue
            name, value.name = value.name, f"{value.name}_half"
            cast = self._cast(value, _FLOAT)
            cast.name = name
            self._graph.outputs[i] = cast

    def _cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        if (value, to) not in self._casts:
            suffix = "float" if to == _FLOAT else "half"
            node = ir.node("Cast", [value], {"to": int(to)}, name=f"{value.name}_to_{suffix}", version=OPSET)
            cast = node.outputs[0]
            cast.name, cast.type, cast.shape = f"{value.name}_{suffix}", ir.TensorType(to), value.shape
            producer = value.producer()
            if producer is None:
                self._graph.insert_before(self._graph[0], node)
            else:
                self._graph.insert_after(producer, node)
            self._casts[value, to] = cast
        return self._casts[value, to]


def _upstream(seeds: Iterable[ir.Node], ends: Callable[[ir.Node], bool] = lambda _: False) -> set[ir.Node]:
    """Collect the seeds and every node all of whose readers are in the set, up to those where the search ends."""
    found = set(seeds)
    queue = list(found)
    while queue:
        for value in queue.pop().inputs:
            node = None if value is None else value.producer()
            if node is None or node in found or ends(node):
                continue
            if all(user in found for output in node.outputs for user, _ in output.uses()):
                found.add(node)
                queue.append(node)
    return found


def _makes_index(node: ir.Node) -> bool:
    """Return whether a node casts floats to integers."""
    if node.op_type != "Cast" or node.inputs[0] is None or node.outputs[0].dtype is None:
        return False
    return node.inputs[0].dtype == _FLOAT and node.outputs[0].dtype.is_integer()


def _divides_by_sums(node: ir.Node) -> bool:
    """Return whether a node divides by a value plus a positive number that is zero in half precision."""
    source = None if node.op_type != "Div" or node.inputs[1] is None else node.inputs[1].producer()
    if source is None or source.op_type != "Add":
        return False
    for value in source.inputs:
        tensor = None if value is None else value.const_value
        if tensor is not None and tensor.size == 1 and 0.0 < float(tensor.numpy().item()) < _SMALLEST:
            return True
    return False


def _has_weights(node: ir.Node) -> bool:
    """Return whether a node reads a matrix or a kernel of weights."""
    return any(
        value is not None and value.const_value is not None and len(value.const_value.shape) > 1
        for value in node.inputs
    )


def _half_tensor(tensor: ir.TensorProtocol | None, dtype: ir.DataType) -> ir.TensorProtocol:
    assert tensor is not None, "an initializer without a value"
    largest = LARGEST[dtype]

    def clamp(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.where(np.isfinite(array), np.clip(array, -largest, largest), array).astype(dtype.numpy())

    def convert() -> ir.TensorProtocol:
        return ir.tensor(convert_in_pieces(read_weight(tensor), dtype.numpy(), clamp), name=tensor.name)

    return ir.LazyTensor(convert, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _untyped(graph: ir.Graph) -> ir.Value | None:
    """Find a value that is read and has no type, or None."""
    values = (value for node in graph for value in node.outputs)
    return next((value for value in values if value.dtype is None and value.uses()), None)


def _has_subgraph(node: ir.Node) -> bool:
    return any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values())
