"""Cuts the graph of a denoiser into graphs that run once a call, for all timesteps, and in every step."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from diffoundry.exporter.passes.graph_parts import Cut, GraphPart, extract, holds_graphs, is_handed_over, is_heavy
from diffoundry.runtime.engines.part_names import CONDITIONING, LATENTS, PRELUDE, STEP, TIMESTEPS
from diffoundry.runtime.models.controlnet import is_residual

__all__ = ["partition"]

_LARGEST_ROW = 2**18
"""Numbers in a value of the prelude for each row, at most: it is kept for every timestep."""


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
    if holds_graphs(graph) or not any(value.name in LATENTS for value in graph.inputs):
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
    return tuple(extract(model, cut, last=cut is step) for cut in cuts) if len(cuts) > 1 else ()


class _Plan:
    """The part that each value of a graph belongs to; constants and sizes of inputs belong to any."""

    def __init__(self, graph: ir.Graph) -> None:
        self._order = {value: place for place, value in enumerate(graph.inputs)}
        self.part: dict[ir.Value, str | None] = {value: _part_of_input(value) for value in graph.inputs}
        self._worth: set[ir.Value] = set()
        for node in graph:
            part = self._part_of(node)
            inputs = [value for value in node.inputs if value is not None]
            worth = is_heavy(node) or any(self.part.get(v) == part and v in self._worth for v in inputs)
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

    def cut(self, name: str, outputs: Sequence[ir.Value]) -> Cut:
        """Walk from the outputs of a part back to what others hand to it."""
        cut = Cut(name=name, outputs=outputs)
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
        return self.part.get(value) not in (None, reader) and value in self._worth and is_handed_over(value)


def _part_of_input(value: ir.Value) -> str:
    name = str(value.name)
    if name in LATENTS or is_residual(name):
        return STEP
    return PRELUDE if name in TIMESTEPS else CONDITIONING


def _is_row(value: ir.Value) -> bool:
    """Return True for a value whose size does not grow with the image or the prompt."""
    sizes = () if value.shape is None else tuple(value.shape)[1:]
    if value.shape is None or not all(isinstance(size, int) for size in sizes):
        return False
    return int(np.prod([size for size in sizes if isinstance(size, int)], dtype=np.int64)) <= _LARGEST_ROW
