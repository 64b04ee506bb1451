"""Splits a graph into two of about the same size, for devices that cannot load the denoiser as one package."""

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from diffoundry.runtime.errors import EngineError
from diffoundry.targets.coreml.build.translation import shape_of

__all__ = ["cut_in_two", "cut_place"]

_WINDOW = 0.05
"""Largest distance of the cut from one half of the weights, as a fraction of all weights."""


def cut_in_two(load: Callable[[], ir.Model]) -> tuple[ir.Model, ir.Model]:
    """Both halves of a graph, of which the second takes what the first one gives.

    Every value that is computed before the cut and read after it, skip connections too, is an output of the first half
    and an input of the second under the same name; so are the whole graph's outputs that the first half makes.

    Args:
        load: Gives the pinned graph, afresh at each call: each half is cut from a graph of its own.

    Raises:
        EngineError: The graph has too few weights to be cut.
    """
    first, second = load(), load()
    place = cut_place(first.graph)
    crossing = [value.name for value in _crossing(first.graph, place)]
    _keep_front(first, place, crossing)
    _keep_back(second, place, crossing)
    return first, second


def cut_place(graph: ir.Graph) -> int:
    """Return the number of nodes in the first half: near half of the weights, where the fewest numbers cross the cut.

    Raises:
        EngineError: No such place.
    """
    nodes = list(graph)
    seen: set[ir.Value] = set()
    sums, total = [], 0
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value not in seen:
                seen.add(value)
                total += value.const_value.nbytes
        sums.append(total)
    places = [place for place in range(1, len(nodes)) if abs(sums[place - 1] - total / 2) <= _WINDOW * total]
    if not places:
        raise EngineError(
            f"graph {graph.name!r}: got {len(nodes)} nodes with {total} bytes of weights, expected a place near half "
            f"of them to cut it at; lower it without --chunks"
        )
    return min(places, key=lambda place: (_numbers(_crossing(graph, place)), abs(sums[place - 1] - total / 2)))


def _crossing(graph: ir.Graph, place: int) -> list[ir.Value]:
    """List the values made before `place` that later nodes read."""
    nodes = list(graph)
    behind = set(nodes[place:])
    return [
        value for node in nodes[:place] for value in node.outputs if any(user in behind for user, _ in value.uses())
    ]


def _numbers(values: list[ir.Value]) -> int:
    total = 0
    for value in values:
        size = 1
        for axis in shape_of(value):
            size *= axis
        total += size
    return total


def _keep_front(model: ir.Model, place: int, crossing: list[str | None]) -> None:
    graph = model.graph
    front = list(graph)[:place]
    made = {value.name: value for node in front for value in node.outputs}
    own = [value for value in graph.outputs if value.producer() in front and value.name not in crossing]
    graph.outputs[:] = [*own, *(made[name] for name in crossing)]
    _clean(model)


def _keep_back(model: ir.Model, place: int, crossing: list[str | None]) -> None:
    graph = model.graph
    front = set(list(graph)[:place])
    graph.outputs[:] = [value for value in graph.outputs if value.producer() not in front]
    for node in front:
        for value in node.outputs:
            if value.name in crossing:
                entry = ir.val(value.name, shape=value.shape, type=value.type)
                value.name = None
                ir.convenience.replace_all_uses_with(value, entry)
                graph.inputs.append(entry)
    _clean(model)


def _clean(model: ir.Model) -> None:
    """Drop what no output of a half needs, inputs too."""
    common.RemoveUnusedNodesPass()(model)
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.uses() or value.is_graph_output()]
