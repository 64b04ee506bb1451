"""Cuts the graph of a denoiser into graphs that run once a call, once a timestep, and in every step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from diffoundry.exporter.passes.opset import OPSET
from diffoundry.runtime.models.controlnet import is_residual
from diffoundry.targets.graph_edit import scalar

__all__ = ["CONDITIONING", "PRELUDE", "STEP", "GraphPart", "partition"]

CONDITIONING = "conditioning"
"""Part whose values change only with the prompts, images and other inputs of a call."""

PRELUDE = "prelude"
"""Part whose values also change with the timestep, and are one row of numbers for each row of the batch."""

STEP = "step"
"""Part whose values change with the latents."""

_LATENTS = ("sample", "hidden_states")
"""Inputs that change in every step. The names are those of diffusers' `forward`."""

_TIMESTEPS = ("timestep", "timestep_ratio", "r")

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

_LARGEST_ROW = 2**18
"""Numbers in a value of the prelude for each row, at most: it is kept for every timestep."""

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_CROSSING = (ir.DataType.FLOAT, *_HALVES, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL)
"""Types of values that one part hands to another. Halves do so as float32, which holds them exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphPart:
    """One of the graphs that a graph was cut into.

    Attributes:
        name: `CONDITIONING`, `PRELUDE` or `STEP`.
        model: The graph. Its inputs are inputs of the whole graph and outputs of earlier parts, under the same names.
        shape_inputs: Inputs of which it reads the shape alone.
    """

    name: str
    model: ir.Model
    shape_inputs: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of its constants."""
        tensors = [value.const_value for value in self.model.graph.initializers.values()]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def partition(model: ir.Model) -> tuple[GraphPart, ...]:
    """Cut a graph by what each node depends on. The graph itself is not changed.

    Every node keeps its inputs, so the parts one after another compute the same numbers. Given:
        %k = MatMul(%encoder_hidden_states, %to_k.weight)      # conditioning
        %e = Gemm(Sin(%timestep), %time_proj.weight)           # prelude
        %y = Attention(Add(%hidden_states, %e), %k)            # step
    Result: three graphs. %k and %e are outputs of the first two and inputs of the third.

    Args:
        model: The graph of a denoiser, a prior or a ControlNet, in any precision.

    Returns:
        The parts in the order in which they run, the step last. None where nothing is worth a part, where the graph
        does not read latents, or where a node holds a graph of its own.
    """
    graph = model.graph
    inner = any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for n in graph for a in n.attributes.values()
    )
    if inner or not any(value.name in _LATENTS for value in graph.inputs):
        return ()
    plan = _Plan(graph)
    step = plan.cut(STEP, graph.outputs)
    prelude = plan.cut(PRELUDE, [value for value in step.crossing if plan.part[value] == PRELUDE])
    handed = [*step.crossing, *prelude.crossing]
    conditioning = plan.cut(
        CONDITIONING, [value for value in dict.fromkeys(handed) if plan.part[value] == CONDITIONING]
    )
    cuts = [cut for cut in (conditioning, prelude, step) if cut.outputs]
    read = {value for cut in cuts for value in cut.inputs}
    step.inputs[:] = [value for value in graph.inputs if value in step.inputs or value not in read]  # also unread ones
    return tuple(_extract(model, cut) for cut in cuts) if len(cuts) > 1 else ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cut:
    """A part before it is extracted: its outputs, and the values at which it begins."""

    name: str
    outputs: Sequence[ir.Value]
    inputs: list[ir.Value] = field(default_factory=list)
    crossing: list[ir.Value] = field(default_factory=list)


class _Plan:
    """The part that each value of a graph belongs to; constants and sizes of inputs belong to any."""

    def __init__(self, graph: ir.Graph) -> None:
        self._order = {value: place for place, value in enumerate(graph.inputs)}
        self.part: dict[ir.Value, str | None] = {value: _part_of_input(value) for value in graph.inputs}
        self._worth: set[ir.Value] = set()
        for node in graph:
            part = self._part_of(node)
            inputs = [value for value in node.inputs if value is not None]
            worth = _is_heavy(node) or any(self.part.get(v) == part and v in self._worth for v in inputs)
            for value in node.outputs:
                self.part[value] = part
                if worth:
                    self._worth.add(value)

    def _part_of(self, node: ir.Node) -> str | None:
        if node.op_type == "Shape" and node.inputs[0] in self._order:
            return None
        read = {self.part.get(value) for value in node.inputs if value is not None}
        if STEP in read:
            return STEP
        if PRELUDE in read:
            return PRELUDE if all(_is_row(value) for value in node.outputs) else STEP
        return CONDITIONING if CONDITIONING in read else None

    def cut(self, name: str, outputs: Sequence[ir.Value]) -> _Cut:
        """Walk from the outputs of a part back to what others hand to it."""
        cut = _Cut(name=name, outputs=outputs)
        pending, seen = list(outputs), set(outputs)
        while pending:
            value = pending.pop()
            if value in self._order:
                cut.inputs.append(value)
            elif value not in outputs and self._is_handed_over(value, name):
                cut.crossing.append(value)
            elif (node := value.producer()) is not None:
                new = [one for one in node.inputs if one is not None and one not in seen]
                seen.update(new)
                pending += new
        cut.inputs.sort(key=self._order.__getitem__)
        return cut

    def _is_handed_over(self, value: ir.Value, reader: str) -> bool:
        if self.part.get(value) in (None, reader) or value not in self._worth or value.dtype not in _CROSSING:
            return False
        node = value.producer()
        return node is not None and node.op_type not in _LAYOUT and not _has_scalar(node)


def _part_of_input(value: ir.Value) -> str:
    name = str(value.name)
    if name in _LATENTS or is_residual(name):
        return STEP
    return PRELUDE if name in _TIMESTEPS else CONDITIONING


def _is_row(value: ir.Value) -> bool:
    """Return True for a value whose size does not grow with the image or the prompt."""
    sizes = () if value.shape is None else tuple(value.shape)[1:]
    if value.shape is None or not all(isinstance(size, int) for size in sizes):
        return False
    return int(np.prod([size for size in sizes if isinstance(size, int)], dtype=np.int64)) <= _LARGEST_ROW


def _is_heavy(node: ir.Node) -> bool:
    if node.op_type in _HEAVY or node.domain:
        return True
    tensors = [value.const_value for value in node.inputs if value is not None]
    return any(tensor is not None and tensor.size >= _LARGE_TABLE for tensor in tensors)


def _has_scalar(node: ir.Node) -> bool:
    """Return True for a sum or product with one number, such as `1 + scale`."""
    return node.op_type in ("Add", "Mul") and any(scalar(value) is not None for value in node.inputs)


def _extract(model: ir.Model, cut: _Cut) -> GraphPart:
    """Copy the nodes of a part; its weights stay references to the whole graph's files."""
    graph = model.graph
    extracted = ir.convenience.extract(graph, [*cut.inputs, *cut.crossing], list(cut.outputs))
    if cut.name != STEP:
        _convert(extracted, extracted.outputs, _widen)
    handed = {value.name for value in cut.crossing}
    _convert(extracted, [value for value in extracted.inputs if value.name in handed], _narrow)
    part = ir.Model(extracted, ir_version=model.ir_version, producer_name=model.producer_name)
    part.metadata_props.update(model.metadata_props)
    shapes = [v for v in extracted.inputs if v.uses() and all(use.node.op_type == "Shape" for use in v.uses())]
    return GraphPart(name=cut.name, model=part, shape_inputs=tuple(str(value.name) for value in shapes))


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
