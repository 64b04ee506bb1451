"""Lets inner tensors of a network be seen: the graph is cut into stages, each run by an engine of its own."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import onnx_ir as ir

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import Array, Engine

__all__ = ["OpenGraph", "Stage", "StagedEngine", "cut_into_stages"]

OpenGraph = Callable[[ir.Model, str], Engine]
"""(graph, a name for its files) -> an engine that runs it."""

_AT_ONCE = 16
"""Watched tensors to a stage: that many are in memory at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of a graph that runs when all stages before it have run.

    Attributes:
        graph: The part.
        watched: Which of its outputs are to be looked at.
        keep: Names of the tensors that stages after it still read, or that are outputs of the whole.
    """

    graph: ir.Model
    watched: tuple[str, ...]
    keep: frozenset[str]


def cut_into_stages(model: ir.Model, watched: Collection[str], *, at_once: int = _AT_ONCE) -> list[Stage]:
    """Cut a graph behind every `at_once` watched tensors.

    Everything is computed once, and memory holds the watched tensors of one stage beside those that cross a cut.

    Args:
        model: In topological order; stays as it is.
        watched: Names of tensors that nodes make. Inputs of the graph are no work for a stage.
        at_once: Watched tensors to a stage.
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
    return [_stage(model, groups, i, watched) for i in range(len(groups))]


def _stage(model: ir.Model, groups: Sequence[Sequence[ir.Node]], i: int, watched: Collection[str]) -> Stage:
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
    return Stage(
        graph=ir.Model(graph, ir_version=model.ir_version),
        watched=tuple(str(value.name) for value in looked_at),
        keep=frozenset(str(value.name) for value in keep),
    )


class StagedEngine:
    """Runs the stages of a graph one after the other and shows the watched tensors of each. For one thread.

    Attributes:
        inputs: Of the whole graph.
        outputs: Of the whole graph.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        open_graph: OpenGraph,
        look: Callable[[str, Array], None],
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        watched_inputs: Collection[str] = (),
    ) -> None:
        """Open an engine for every stage.

        Args:
            stages: Of `cut_into_stages`.
            open_graph: Opens them.
            look: Called with the name and the content of every watched tensor in every run.
            inputs: Of the whole graph.
            outputs: Of the whole graph.
            watched_inputs: Those of the inputs that are shown too.
        """
        self.inputs = inputs
        self.outputs = outputs
        self._look = look
        self._watched_inputs = watched_inputs
        self._stages = list(stages)
        self._engines = [open_graph(stage.graph, f"stage-{i}") for i, stage in enumerate(stages)]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run all stages."""
        values = dict(feeds)
        for name in self._watched_inputs:
            self._look(name, values[name])
        for stage, engine in zip(self._stages, self._engines, strict=True):
            made = engine.run({spec.name: values[spec.name] for spec in engine.inputs})
            for name in stage.watched:
                self._look(name, made[name])
            values = {name: array for name, array in (values | made).items() if name in stage.keep}
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
