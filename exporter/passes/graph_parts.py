"""Graphs that are cut out of one graph, over the same weights."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from diffoundry.exporter.passes.opset import OPSET
from diffoundry.targets.graph_edit import scalar

__all__ = ["Cut", "GraphPart", "extract", "holds_graphs", "is_handed_over", "is_heavy"]

_LAYOUT = (
    "Cast", "Expand", "Identity", "QuantizeLinear", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that only arrange numbers. One whose result is read by a later part runs there: targets fuse it."""

_HEAVY = (
    "Attention", "Conv", "ConvTranspose", "Cos", "Einsum", "Gemm", "GroupNormalization", "LayerNormalization",
    "MatMul", "RMSNormalization", "Resize", "Sin", "Softmax",
)  # fmt: skip
"""Operators that are worth a part of their own."""

_LARGE_TABLE = 4096
"""Numbers of a constant that make an operator worth a part: an embedding table."""

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_CROSSING = (ir.DataType.FLOAT, *_HALVES, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL)
"""Types of values that one part hands to another. Halves do so as float32, which holds them exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphPart:
    """One of the graphs that a graph was cut into.

    Attributes:
        name: Of `runtime.engines.part_names`.
        model: The graph. Its inputs are inputs of the whole graph and outputs of earlier parts, under the same names.
        shape_inputs: Inputs of which it reads the shape alone.
        residuals: As in `EnginePart`.
    """

    name: str
    model: ir.Model
    shape_inputs: tuple[str, ...]
    residuals: dict[str, str] = field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """Bytes of its constants."""
        tensors = [value.const_value for value in self.model.graph.initializers.values()]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A part before it is extracted: its outputs, and the values at which it begins.

    Attributes:
        name: As `GraphPart.name`.
        outputs: Values for later parts, or outputs of the graph.
        inputs: Inputs of the graph that it reads.
        crossing: Outputs of earlier parts that it reads.
    """

    name: str
    outputs: Sequence[ir.Value]
    inputs: list[ir.Value] = field(default_factory=list)
    crossing: list[ir.Value] = field(default_factory=list)


def holds_graphs(graph: ir.Graph) -> bool:
    """Return True where a node holds a graph of its own."""
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(one.type in kinds for node in graph for one in node.attributes.values())


def is_heavy(node: ir.Node) -> bool:
    """Return True for an operator that is worth a part of its own."""
    if node.op_type in _HEAVY or node.domain:
        return True
    tensors = [value.const_value for value in node.inputs if value is not None]
    return any(tensor is not None and tensor.size >= _LARGE_TABLE for tensor in tensors)


def is_handed_over(value: ir.Value) -> bool:
    """Return True for a result that a part hands over; a later part computes others again from what they are made of.

    Those are results of operators that only arrange numbers, and sums and products with one number, such as
    `1 + scale`.
    """
    node = value.producer()
    if node is None or value.dtype not in _CROSSING or node.op_type in _LAYOUT:
        return False
    return not (node.op_type in ("Add", "Mul") and any(scalar(one) is not None for one in node.inputs))


def extract(model: ir.Model, cut: Cut, *, last: bool) -> GraphPart:
    """Copy the nodes of a part; its weights stay references to the whole graph's files.

    Args:
        model: The whole graph.
        cut: The part.
        last: True for the part that makes the outputs of the whole graph, in their own type.
    """
    graph = model.graph
    extracted = ir.convenience.extract(graph, [*cut.inputs, *cut.crossing], list(cut.outputs))
    _sort_weights(extracted, graph)
    if not last:
        _convert(extracted, extracted.outputs, _widen)
    handed = {value.name for value in cut.crossing}
    _convert(extracted, [value for value in extracted.inputs if value.name in handed], _narrow)
    part = ir.Model(extracted, ir_version=model.ir_version, producer_name=model.producer_name)
    part.metadata_props.update(model.metadata_props)
    shapes = [v for v in extracted.inputs if v.uses() and all(use.node.op_type == "Shape" for use in v.uses())]
    return GraphPart(name=cut.name, model=part, shape_inputs=tuple(str(value.name) for value in shapes))


def _sort_weights(graph: ir.Graph, whole: ir.Graph) -> None:
    """Put weights in the order of the whole graph. onnx_ir collects them in a set, so two exports would differ."""
    held = dict(graph.initializers)
    graph.initializers.clear()
    for name in whole.initializers:
        if name in held:
            graph.initializers[name] = held[name]


def _convert(graph: ir.Graph, values: Iterable[ir.Value], convert: Callable[[ir.Graph, ir.Value], None]) -> None:
    for value in tuple(values):
        if value.dtype in _HALVES:
            convert(graph, value)


def _widen(graph: ir.Graph, value: ir.Value) -> None:
    """Hand an output over as float32, under its own name."""
    name = value.name
    node = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{name}/float32", version=OPSET)
    value.name, wide = f"{name}.half", node.outputs[0]
    wide.name, wide.shape, wide.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.outputs[[*graph.outputs].index(value)] = wide
    graph.append(node)


def _narrow(graph: ir.Graph, value: ir.Value) -> None:
    """Take an input as float32, under its own name, and convert it back."""
    assert value.dtype is not None
    node = ir.node("Cast", [value], {"to": int(value.dtype)}, name=f"{value.name}/half", version=OPSET)
    half = node.outputs[0]
    half.name, half.shape, half.type = f"{value.name}.half", value.shape, ir.TensorType(value.dtype)
    ir.convenience.replace_all_uses_with(value, half)
    node.replace_input_with(0, value)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    first = next(iter(graph), None)
    assert first is not None
    graph.insert_before(first, node)
