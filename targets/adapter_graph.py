"""Adds inputs for adapters to a graph: a low-rank branch beside each layer, and rows behind the table of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from diffoundry.runtime.bundle.specs import AdapterSpec
from diffoundry.targets.graph_edit import new_initializer, replace

__all__ = ["TakeAdapters", "adapter_path", "layer_weights", "layers_of"]

_MODULE = "diffoundry.module"
"""Metadata that the exporter leaves on a node: path of the torch module that it computes a part of."""

_TABLE = "token_embedding"
"""Last part of the name of the module that turns tokens into vectors."""


@dataclass(frozen=True, kw_only=True)
class TakeAdapters(ir.passes.InPlacePass):
    """Adds inputs for the two factors of a LoRA to every linear layer and convolution.

    Given:
        %y = MatMul(%x, %w)                                    # of the module "attn.to_q"; or Gemm
    Result:
        %a = MatMul(%x, %attn.to_q.lora_A)                     # inputs, float32: (in, rank)
        %b = MatMul(%a, %attn.to_q.lora_B)                     # (rank, out)
        %s = Add(%y, %b)                                       # replaces %y

    Of a convolution they are (rank, in, h, w), with its strides and padding, and (out, rank, 1, 1). Hu et al. 2021,
    https://arxiv.org/abs/2106.09685, equation 3; PEFT: `lora.Linear.forward`, `lora.Conv2d.forward`. The scale is
    part of lora_B, and several LoRAs are one of the sum of their ranks.

    Given:
        %y = Gather(%table, %tokens)                           # of the module "token_embedding", (vocabulary, width)
    Result:
        the same for tokens of the vocabulary, row `token - vocabulary` of the input %token_embedding.rows for others
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Open every layer of the graph that can take an adapter."""
        layers = _layer_nodes(model.graph)
        for module, nodes in layers.items():
            _add_branches(model.graph, module, nodes)
        table = _table_node(model.graph)
        if table is not None:
            _add_rows(model.graph, *table)
        return ir.passes.PassResult(model, modified=bool(layers) or table is not None)


def layers_of(graph: ir.Graph) -> AdapterSpec:
    """Describe the layers that `TakeAdapters` will open, with the shapes that torch has. The target names the files."""
    layers = {}
    for module, (node, *_) in _layer_nodes(graph).items():
        shape = _weight_shape(node)
        layers[module] = shape[::-1] if _is_turned(node) else shape
    spec = AdapterSpec(files=(), layers=layers)
    table = _table_node(graph)
    if table is None:
        return spec
    module, node = table
    rows, width = _shape(node.inputs[0])
    return changed(spec, table=module, vocabulary=rows, width=width)


def layer_weights(graph: ir.Graph) -> dict[str, tuple[str, bool]]:
    """Layer to the initializer that is its weight, and whether that has the axes (in, out), where torch has (out, in).

    Without those that are quantized or that nodes of other layers read too.
    """
    found = {}
    for module, nodes in _layer_nodes(graph).items():
        weight = nodes[0].inputs[1]
        assert weight is not None
        if weight.producer() is None and len(weight.uses()) == len(nodes):
            found[module] = str(weight.name), _is_turned(nodes[0])
    return found


def _is_turned(node: ir.Node) -> bool:
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get_int("transB", 0))


def adapter_path(graph: Path) -> Path:
    """Path of the opened form of a graph: "model.adapters.onnx" beside "model.onnx"."""
    return graph.with_name(f"{graph.stem}.adapters.onnx")


def _layer_nodes(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """Module to its nodes, of all linear layers and convolutions over all channels.

    A layer that runs several times has as many nodes, all of the same weight. A module of several weights is none.
    """
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        module = node.metadata_props.get(_MODULE)
        if module is not None and not node.domain and _is_layer(node):
            found.setdefault(module, []).append(node)
    return {module: nodes for module, nodes in found.items() if len({_form(node) for node in nodes}) == 1}


def _form(node: ir.Node) -> tuple[str, ir.Value | None, bool]:
    """Return the operator, the stored weight, and whether it is turned."""
    weight = node.inputs[1]
    producer = None if weight is None else weight.producer()
    return node.op_type, weight if producer is None else producer.inputs[0], _is_turned(node)


def _is_layer(node: ir.Node) -> bool:
    if node.op_type == "Conv":
        return node.attributes.get_int("group", 1) == 1 and _is_constant(node.inputs[1])
    if node.op_type not in {"MatMul", "Gemm"} or not _is_constant(node.inputs[1]):
        return False
    scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return not scaled and not node.attributes.get_int("transA", 0) and len(_weight_shape(node)) == 2


def _is_constant(value: ir.Value | None) -> bool:
    """Return True for an initializer, and for the DequantizeLinear of one."""
    if value is None:
        return False
    producer = value.producer()
    if producer is None:
        return value.is_initializer() and not value.is_graph_input()
    return producer.op_type == "DequantizeLinear" and _is_constant(producer.inputs[0])


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    assert value is not None
    producer = value.producer()
    stored = value if producer is None else producer.inputs[0]
    assert stored is not None
    assert stored.const_value is not None
    return tuple(stored.const_value.shape.numpy())


def _weight_shape(node: ir.Node) -> tuple[int, ...]:
    return _shape(node.inputs[1])


def _table_node(graph: ir.Graph) -> tuple[str, ir.Node] | None:
    for node in graph:
        module = node.metadata_props.get(_MODULE, "")
        if node.op_type == "Gather" and module.rpartition(".")[2] == _TABLE and _is_constant(node.inputs[0]):
            return module, node
    return None


def _new_input(
    graph: ir.Graph, name: str, shape: tuple[int | str, ...], like: ir.Value
) -> tuple[ir.Value, list[ir.Node]]:
    """A float32 input in the type of another value, and the Cast that this takes, if any."""
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    graph.inputs.append(value)
    if like.dtype in (None, ir.DataType.FLOAT):
        return value, []
    cast = ir.node("Cast", [value], {"to": int(like.dtype)}, name=f"{name}/Cast")
    cast.outputs[0].name, cast.outputs[0].type = f"{name}_cast", ir.TensorType(like.dtype)
    return cast.outputs[0], [cast]


def _add_branches(graph: ir.Graph, module: str, nodes: Sequence[ir.Node]) -> None:
    """Add inputs for a layer, and a branch to each of its nodes, which are in the order of the graph."""
    node = nodes[0]
    x = node.inputs[0]
    assert x is not None
    rank, shape = f"{module}.rank", _weight_shape(node)
    if node.op_type == "Conv":
        down_shape: tuple[int | str, ...] = (rank, *shape[1:])
        up_shape: tuple[int | str, ...] = (shape[0], rank, *(1 for _ in shape[2:]))
        operator, attributes = "Conv", dict(node.attributes)
    else:
        turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
        width, outputs = shape[::-1] if turned else shape
        down_shape, up_shape = (width, rank), (rank, outputs)
        operator, attributes = "MatMul", {}
    down, first = _new_input(graph, f"{module}.lora_A", down_shape, x)
    up, second = _new_input(graph, f"{module}.lora_B", up_shape, x)
    graph.insert_before(node, (*first, *second))
    for index, one in enumerate(nodes):
        ending = f".{index}" if index else ""
        _add_branch(graph, f"{module}{ending}", one, (operator, attributes), (down, up))


def _add_branch(
    graph: ir.Graph, name: str, node: ir.Node, kind: tuple[str, Mapping[str, Any]], factors: tuple[ir.Value, ir.Value]
) -> None:
    x, y = node.inputs[0], node.outputs[0]
    narrow = ir.node(kind[0], [x, factors[0]], dict(kind[1]), name=f"{name}/lora_A")
    wide = ir.node(kind[0], [narrow.outputs[0], factors[1]], name=f"{name}/lora_B")
    total = ir.node("Add", [y, wide.outputs[0]], name=f"{name}/lora")
    output = y.name
    for value, ending in ((y, "_base"), (narrow.outputs[0], "_narrow"), (wide.outputs[0], "_wide")):
        value.name, value.type = f"{output}{ending}", y.type
    result = total.outputs[0]
    result.name, result.type, result.shape, wide.outputs[0].shape = output, y.type, y.shape, y.shape
    ir.convenience.replace_all_uses_with(y, result, replace_graph_outputs=True)
    total.replace_input_with(0, y)
    graph.insert_after(node, (narrow, wide, total))


def _add_rows(graph: ir.Graph, module: str, node: ir.Node) -> None:
    table, tokens = node.inputs
    y = node.outputs[0]
    assert table is not None
    assert tokens is not None
    assert tokens.dtype is not None
    vocabulary, width = _shape(table)
    kind = tokens.dtype.numpy()
    rows, casts = _new_input(graph, f"{module}.rows", (f"{module}.count", width), y)
    builder = tape.Tape()

    def number(value: int, name: str) -> ir.Value:
        return new_initializer(graph, f"{module}.{name}", np.array(value, kind))

    size = number(vocabulary, "vocabulary")
    known = builder.op("Min", [tokens, number(vocabulary - 1, "last")])
    beyond = builder.op("Max", [builder.op("Sub", [tokens, size]), number(0, "first")])
    own = builder.op("Gather", [table, known], {"axis": 0}, name=f"{module}/own")
    new = builder.op("Gather", [rows, beyond], {"axis": 0}, name=f"{module}/new")
    last = new_initializer(graph, f"{module}.axis", np.array([-1], np.int64))
    is_new = builder.op("Unsqueeze", [builder.op("GreaterOrEqual", [tokens, size]), last])
    result = builder.op("Where", [is_new, new, own], name=f"{module}/rows")
    replace(y, result, (*casts, *builder.nodes))
