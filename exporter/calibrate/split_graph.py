"""Exposes intermediate tensors by splitting the graph into parts that run one after another."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import onnx_ir as ir

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import Array, Engine

__all__ = ["GraphPart", "OpenGraph", "SplitEngine", "split_graph"]

OpenGraph = Callable[[ir.Model, str], Engine]
"""(graph, a name for its files) -> an engine that runs it."""

_AT_ONCE = 16
"""Watched tensors per part: that many are in memory at the same time."""


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


def split_graph(model: ir.Model, watched: Collection[str], *, at_once: int = _AT_ONCE) -> list[GraphPart]:
    """Cut a graph after every `at_once` watched tensors.

    Everything is computed once. Memory holds the watched tensors of one part and the tensors that cross a cut.

    Args:
        model: In topological order; stays unchanged.
        watched: Names of tensors that nodes compute. Inputs of the graph are not included.
        at_once: Watched tensors per part.
    """
    groups: list[list[ir.Node]] = [[]]
    seen = 0
    for node in model.graph:
        groups[-1].append(node)
        seen += sum(output.name in watched for output in node.outputs)
        if seen >= at_once:
            groups.append([])
            seen = 0
    groups = [group for group in groups if group]
    return [_part(model, groups, i, watched) for i in range(len(groups))]


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
        look: Callable[[str, Array], None],
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
