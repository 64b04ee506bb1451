"""Helpers to inspect and edit an `onnx_ir` graph, shared by passes and targets."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.targets.weight_data import read_weight

__all__ = [
    "constant",
    "new_initializer",
    "producer",
    "remove_unused",
    "replace",
    "scalar",
    "sole_user",
    "static",
]

_SMALL = 65536


def constant(value: ir.Value | None, limit: int = _SMALL) -> npt.NDArray[np.generic] | None:
    """The array behind an initializer or a Constant node, or None when there is none or it has over `limit` elements.

    The limit keeps a question about a scalar from reading a weight of a gigabyte.
    """
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > limit:
        return None
    return read_weight(tensor)


def scalar(value: ir.Value | None) -> float | None:
    """The number behind a constant with one element, or None."""
    array = constant(value, limit=1)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def producer(value: ir.Value | None, *op_types: str, domain: str = "") -> ir.Node | None:
    """The node that makes `value` when it is one of `op_types`, or None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == domain and node.op_type in op_types else None


def sole_user(value: ir.Value) -> ir.Node | None:
    """The only node that reads `value`, or None when several do, when none does, or when it is a graph output."""
    uses = value.uses()
    return next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None


def static(value: ir.Value | None, axis: int) -> int | None:
    """The size of `value` along `axis` when it is known as a number, or None."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def new_initializer(graph: ir.Graph, name: str, content: npt.NDArray[np.generic] | ir.TensorProtocol) -> ir.Value:
    """The initializer called `name`, made of `content` unless the graph has it already.

    Names say what is inside, so that equal constants are stored once.
    """
    if name not in graph.initializers:
        tensor = content if isinstance(content, ir.TensorProtocol) else ir.tensor(content, name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        graph.register_initializer(value)
    return graph.initializers[name]


def replace(old: ir.Value, new: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Insert `nodes` where `old` is made and let `new`, made by the last of them, take its place and its name.

    New nodes without a name are called after the old one, and get its metadata. Whatever only led to `old` goes.
    """
    node = old.producer()
    graph = None if node is None else node.graph
    assert node is not None, f"{old.name} is made by no node"
    assert graph is not None, f"{node.name} is in no graph"
    new.type, new.shape = old.type, old.shape
    name, old.name = old.name, None
    new.name = name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    for count, added in enumerate(nodes, 1):
        added.name = added.name or f"{node.name or name}/{added.op_type}_{count}"
        added.metadata_props.update(node.metadata_props)
    graph.insert_after(node, nodes)
    remove_unused(node)


def remove_unused(node: ir.Node) -> None:
    """Remove `node` if nobody reads its outputs, and then every node that only led to it."""
    queue = [node]
    while queue:
        node = queue.pop()
        if node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        makers = [value.producer() for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
        queue.extend(maker for maker in makers if maker is not None)
