"""Splits a graph into parts that run one after another, to expose intermediate tensors or to hold fewer weights."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import onnx_ir as ir

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import Array, Engine

__all__ = ["GraphPart", "OpenGraph", "SplitEngine", "split_graph", "weight_bytes", "weights_of_nodes"]

OpenGraph = Callable[[ir.Model, str], Engine]
"""(graph, a name for its files) -> an engine that runs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphPart:
    """A part of a graph that runs after all parts before it.

    Attributes:
        graph: Graph of the part.
        watched: Names of its watched outputs.
        keep: Names of the tensors that later parts read, or that are outputs of the whole graph.
    """

    graph: ir.Model
    watched: tuple[str, ...]
    keep: frozenset[str]


def split_graph(
    model: ir.Model, watched: Collection[str] = (), *, at_once: int | None = None, most_bytes: int | None = None
) -> list[GraphPart]:
    """Cut a graph after every `at_once` watched tensors, and where a part would have more bytes of weights.

    Everything is computed once. Memory holds the watched tensors of one part and the tensors that cross a cut.

    Args:
        model: In topological order; stays unchanged.
        watched: Names of tensors that nodes compute. Inputs of the graph are not included.
        at_once: Watched tensors per part: that many are in memory at the same time. None for all.
        most_bytes: Weights per part, as float32, but for a node that has more; None for any. Tensors of unknown type or
            shape, as rewrites leave them, never cross such a cut.
    """
    groups: list[list[ir.Node]] = [[]]
    seen = used = 0
    open_values: dict[ir.Value, int] = {}
    for node in _constants_late(model.graph):
        size = _weights_of(node)
        if most_bytes is not None and groups[-1] and used + size > most_bytes and _described(open_values):
            groups.append([])
            seen = used = 0
        groups[-1].append(node)
        used += size
        _follow(open_values, node)
        seen += sum(output.name in watched for output in node.outputs)
        if at_once is not None and seen >= at_once:
            groups.append([])
            seen = used = 0
    groups = [group for group in groups if group]
    return [_part(model, groups, i, watched) for i in range(len(groups))]


def _constants_late(graph: ir.Graph) -> list[ir.Node]:
    """Order the nodes so that what weights alone decide, such as their dequantization, comes just before its use."""
    constant: dict[ir.Node, None] = {}
    placed: dict[ir.Node, None] = {}

    def place(node: ir.Node) -> None:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer in constant and producer not in placed:
                place(producer)
        placed[node] = None

    for node in graph:
        made = [value for value in node.inputs if value is not None and not value.is_initializer()]
        if all(value.producer() in constant for value in made):
            constant[node] = None
        else:
            place(node)
    for node in constant:
        if node not in placed:  # outputs of the graph
            place(node)
    return list(placed)


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of a graph's weights as float32, in which quantized ones are computed too."""
    return sum(_bytes_of(value) for value in model.graph.initializers.values())


def weights_of_nodes(model: ir.Model) -> list[int]:
    """Return the bytes of the weights that each node reads, as float32: a part holds those of one node at least."""
    return [_weights_of(node) for node in model.graph]


def _weights_of(node: ir.Node) -> int:
    return sum(_bytes_of(value) for value in node.inputs)


def _bytes_of(value: ir.Value | None) -> int:
    return 0 if value is None or value.const_value is None else 4 * value.const_value.size


def _follow(open_values: dict[ir.Value, int], node: ir.Node) -> None:
    """Count down the uses of what a node reads, and add what it computes: values to their uses that are left."""
    for value in node.inputs:
        if value is not None and value in open_values:
            open_values[value] -= 1
            if not open_values[value]:
                del open_values[value]
    open_values.update({output: len(output.uses()) for output in node.outputs if output.uses()})


def _described(values: Collection[ir.Value]) -> bool:
    return all(value.dtype is not None and value.shape is not None for value in values)


def _part(model: ir.Model, groups: Sequence[Sequence[ir.Node]], i: int, watched: Collection[str]) -> GraphPart:
    made = [output for node in groups[i] for output in node.outputs]
    own, later = set(groups[i]), {node for group in groups[i + 1 :] for node in group}
    inputs: dict[ir.Value, None] = {}
    for node in groups[i]:
        for value in node.inputs:
            if value is not None and not value.is_initializer() and value.producer() not in own:
                inputs[value] = None
    crossing = [v for v in made if v.is_graph_output() or any(use.node in later for use in v.uses())]
    looked_at = [value for value in made if value.name in watched]
    graph = ir.convenience.extract(model.graph, list(inputs), list(dict.fromkeys(crossing + looked_at)))
    known = [value for node in (n for group in groups[:i] for n in group) for value in node.outputs]
    keep = [
        v for v in (*model.graph.inputs, *known, *made) if v.is_graph_output() or any(u.node in later for u in v.uses())
    ]
    return GraphPart(
        graph=ir.Model(graph, ir_version=model.ir_version),
        watched=tuple(str(value.name) for value in looked_at),
        keep=frozenset(str(value.name) for value in keep),
    )


class SplitEngine:
    """Runs the parts of a graph in turn and reports the watched tensors of each. For one thread.

    Attributes:
        inputs: Inputs of the whole graph.
        outputs: Outputs of the whole graph.
    """

    def __init__(
        self,
        parts: Sequence[GraphPart],
        open_graph: OpenGraph,
        look: Callable[[str, Array], None] = lambda _name, _values: None,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        watched_inputs: Collection[str] = (),
    ) -> None:
        """Open an engine for every part.

        Args:
            parts: Result of `split_graph`.
            open_graph: Opens the engines.
            look: Called with name and content of every watched tensor in every run.
            inputs: Inputs of the whole graph.
            outputs: Outputs of the whole graph.
            watched_inputs: Inputs that are reported too.
        """
        self.inputs = inputs
        self.outputs = outputs
        self._look = look
        self._watched_inputs = watched_inputs
        self._parts = list(parts)
        self._engines = [open_graph(part.graph, f"part-{i}") for i, part in enumerate(parts)]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run all parts."""
        values = dict(feeds)
        for name in self._watched_inputs:
            self._look(name, values[name])
        for part, engine in zip(self._parts, self._engines, strict=True):
            made = engine.run({spec.name: values[spec.name] for spec in engine.inputs})
            for name in part.watched:
                self._look(name, made[name])
            values = {name: array for name, array in (values | made).items() if name in part.keep}
        return {spec.name: values[spec.name] for spec in self.outputs}

    def close(self) -> None:
        """Close all engines."""
        for engine in self._engines:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
