"""Cuts the graph of a denoiser around its inner part, whose results change little from step to step."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from diffoundry.exporter.passes.graph_parts import Cut, GraphPart, extract, holds_graphs, is_handed_over, is_heavy
from diffoundry.exporter.steps.graph_names import MODULE_KEY
from diffoundry.runtime.engines.part_names import BODY, HEAD, INNER, LATENTS, OUTER, TAIL
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.controlnet import is_residual

__all__ = ["split"]

_LAYERS = re.compile(r"(\w*(?:blocks|layers))\.(\d+)(?:\.|$)")
"""Names of modules in a list of a network, such as "transformer_blocks.0.attn"."""

_UNET = "up_blocks"

_SAME = ("Cast", "Clip", "DequantizeLinear", "Identity", "QuantizeLinear")
"""Operators after which a value is the same sum."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def split(model: ir.Model, component: str) -> tuple[GraphPart, ...]:
    """Cut a graph into two or three parts. The graph itself is not changed.

    Every node keeps its inputs, so the parts one after another compute the same numbers.

    * A UNet is cut at its outermost skip: inner is all below it, outer is `conv_in`, the last layer of the last up
      block and `conv_out`. DeepCache, Ma et al. 2023, https://arxiv.org/abs/2312.00858. Both compute `conv_in`, so that
      ONNX Runtime fuses what reads it as in the whole graph, and the bits are the same.
    * A transformer is cut after its first block and after its last, into head, body and tail: the first block cache
      of https://github.com/chengzeyi/ParaAttention, as diffusers' `FirstBlockCacheConfig`.

    Args:
        model: The graph of a denoiser, in any precision, with the names of its PyTorch modules.
        component: Its name, for messages.

    Raises:
        InputError: The network has no such place.
    """
    graph = model.graph
    latents = [value for value in graph.inputs if value.name in LATENTS]
    if holds_graphs(graph) or not latents:
        raise _refusal(component, "it is no network of latents")
    followed = _after(graph, latents)
    lists = _lists(graph, followed)
    place = _skip(graph, followed) if _UNET in lists else _blocks(graph, followed, lists)
    if isinstance(place, str):
        raise _refusal(component, place)
    cuts = _Plan(graph, place, followed).cuts()
    if cuts is None:
        raise _refusal(component, "its outer part reads several values of the inner one")
    parts = tuple(extract(model, cut, last=cut is cuts[-1]) for cut in cuts)
    if place.sum is not None:
        before, after = (str(value.name) for value in place.sum)
        parts[0].residuals[after] = before
        parts[1].residuals.update({str(value.name): after for value in place.results})
    return parts


def _refusal(component: str, why: str) -> InputError:
    return InputError(
        f"--split: got {component}, which has no place for a cut ({why}), expected a UNet whose last up block joins a "
        f"skip, or a transformer of two blocks or more; leave --split out"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Values around the body.

    Attributes:
        entries: All that the inner part reads of the latents; of a transformer made by the head. Of a second stream,
            such as the text's, two terms of a sum where it is one, as of the results.
        results: Made by the inner part; all that the last part reads of it. Of a transformer one value or two terms of
            a sum: the last part adds them, so that ONNX Runtime fuses the sum with the norm as in the whole graph. A
            bias of a term is added there too, since ONNX Runtime fuses it with the same norm.
        sum: (before the first block, after it): the second is the first plus what the block adds, and the sum of the
            results is the second plus what the others add, but for that bias. None for a UNet.
    """

    entries: tuple[ir.Value, ...]
    results: tuple[ir.Value, ...]
    sum: tuple[ir.Value, ir.Value] | None = None


def _skip(graph: ir.Graph, followed: set[ir.Value]) -> _Place | str:
    """Find the last layer that joins a skip: the result is what it joins it to."""
    joins = [node for node in graph if node.op_type == "Concat" and _joins_channels(node, followed)]
    if not joins:
        return "its up blocks join no skip"
    result, skip = joins[-1].inputs
    assert result is not None, "a concatenation has no optional inputs"
    assert skip is not None, "as above"
    return _Place(entries=(_without_residual(skip),), results=(result,))


def _without_residual(skip: ir.Value) -> ir.Value:
    """Return a skip before the residual of a ControlNet is added."""
    node = skip.producer()
    if node is None or node.op_type != "Add":
        return skip
    others = [value for value in node.inputs if value is not None and not is_residual(str(value.name))]
    return others[0] if len(others) == 1 else skip


def _joins_channels(node: ir.Node, followed: set[ir.Value]) -> bool:
    axis = node.attributes.get_int("axis")
    ranks = {None if v is None or v.shape is None else len(v.shape) for v in node.inputs}
    return len(node.inputs) == 2 and axis in (1, -3) and ranks == {4} and all(v in followed for v in node.inputs)


def _blocks(graph: ir.Graph, followed: set[ir.Value], lists: dict[str, int]) -> _Place | str:
    """Find the sums before and after the first block, and the one after the last."""
    if sum(last + 1 for last in lists.values()) < 2:
        return "it has no two blocks one after another"
    first, last = next(iter(lists)), list(lists)[-1]
    nodes = _block(graph, f"{first}.0")
    read = {v for n in nodes if n.op_type != "Shape" for v in n.inputs if v in followed and not _made_by(v, nodes)}
    left = [value for value in _leaving(nodes) if value in followed]
    sums = [(before, after) for after in left for before in read if before in _terms(after)]
    if len(read) != 1 or len(sums) != 1:
        return f"its block {first}.0 does not add to one value"
    after, ends = sums[0][1], set(_leaving(_block(graph, f"{last}.{lists[last]}")))
    inner = _after(graph, ends)
    for value in (value for node in graph for value in node.outputs if value in followed and value in inner | ends):
        if value.shape == after.shape and not _is_inside(value, lists, ends):
            entries = dict.fromkeys(t for one in left for t in ((one,) if one is after else _terms_of(one, followed)))
            return _Place(entries=(*entries,), results=_terms_of(value, _after(graph, left) - {*left}), sum=sums[0])
    return f"nothing after its block {last}.{lists[last]} has the shape of what {first}.0 makes"


def _terms_of(value: ir.Value, inner: set[ir.Value]) -> tuple[ir.Value, ...]:
    """Return the terms of a sum of two inner values of its shape, without a bias; of another value, itself."""
    same = [_without_bias(term) for term in _added(value) if term in inner and _is_alike(term, value)]
    return tuple(same) if len(same) == 2 and same[0] is not same[1] else (value,)


def _without_bias(term: ir.Value) -> ir.Value:
    """Return what a linear layer makes before its bias is added; of another value, itself."""
    terms = _added(term)
    biases = [one for one in terms if one.is_initializer()]
    products = [one for one in terms if one not in biases and _is_alike(one, term)]
    return products[0] if len(biases) == 1 and len(products) == 1 else term


def _added(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    return [] if node is None or node.op_type != "Add" else [term for term in node.inputs if term is not None]


def _is_alike(value: ir.Value, other: ir.Value) -> bool:
    return value.shape == other.shape and value.dtype == other.dtype


def _is_inside(value: ir.Value, lists: dict[str, int], ends: set[ir.Value]) -> bool:
    """Return True for a value that a block makes and keeps."""
    node = value.producer()
    assert node is not None
    return value not in ends and any(_within(node, name) for name in lists)


def _lists(graph: ir.Graph, followed: set[ir.Value]) -> dict[str, int]:
    """Map the lists of modules that the latents pass, in their order, to their last index."""
    found: dict[str, int] = {}
    for node in graph:
        named = _LAYERS.match(node.metadata_props.get(MODULE_KEY, ""))
        if named and any(value in followed for value in node.outputs):
            found[named[1]] = max(found.get(named[1], 0), int(named[2]))
    return found


def _within(node: ir.Node, module: str) -> bool:
    return f"{node.metadata_props.get(MODULE_KEY, '')}.".startswith(f"{module}.")


def _block(graph: ir.Graph, module: str) -> list[ir.Node]:
    """Return the nodes of a block, and those without a module of their own that lie between them."""
    own = [node for node in graph if _within(node, module)]
    after = _after(graph, [value for node in own for value in node.outputs])
    before = _before([value for node in own for value in node.inputs if value is not None])
    inside = after & before
    return [node for node in graph if _within(node, module) or any(value in inside for value in node.outputs)]


def _made_by(value: ir.Value, nodes: Iterable[ir.Node]) -> bool:
    node = value.producer()
    return node is not None and node in nodes


def _leaving(nodes: list[ir.Node]) -> Iterator[ir.Value]:
    """Yield the values that some nodes make and others read."""
    own = set(nodes)
    for node in nodes:
        yield from (v for v in node.outputs if any(use.node not in own for use in v.uses()) or v.is_graph_output())


def _terms(value: ir.Value) -> set[ir.Value]:
    """Return the values of which a value is the sum, itself included."""
    found, pending = {value}, [value]
    while pending:
        node = pending.pop().producer()
        if node is not None and node.op_type in ("Add", *_SAME):
            new = [one for one in node.inputs if one is not None and one not in found]
            found.update(new)
            pending += new
    return found


def _after(graph: ir.Graph, values: Iterable[ir.Value]) -> set[ir.Value]:
    """Return values and all that is computed from them; sizes are not."""
    found = set(values)
    for node in graph:
        if node.op_type != "Shape" and any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def _before(values: Iterable[ir.Value], stop: Iterable[ir.Value] = ()) -> set[ir.Value]:
    """Return values and all that they are computed from, up to others."""
    found, pending, ends = set(values), list(values), set(stop)
    while pending:
        value = pending.pop()
        node = None if value in ends else value.producer()
        new = [] if node is None else [one for one in node.inputs if one is not None and one not in found]
        found.update(new)
        pending += new
    return found


@dataclass(slots=True)
class _Plan:
    """The part that each value belongs to."""

    graph: ir.Graph
    place: _Place
    followed: set[ir.Value]
    worth: set[ir.Value] = field(default_factory=set)
    head: set[ir.Value] = field(default_factory=set)

    def cuts(self) -> list[Cut] | None:
        """Return the parts; None where the last reads values of the inner one other than its result."""
        entries, results = self.place.entries, self.place.results
        inner = _after(self.graph, entries) - set(entries)
        wanted, others = _before(results, entries), _before(self.graph.outputs, [*results, *entries])
        if inner & wanted & others != {*results} or any(value.dtype not in _FLOATS for value in results):
            return None
        if self.place.sum is None:
            cuts = [self._cut(INNER, results), self._cut(OUTER, self.graph.outputs)]
        else:
            heavy = [value for node in self.graph if is_heavy(node) for value in node.outputs]
            self.worth = self.followed | _after(self.graph, heavy)
            self.head = (_before(entries) | (wanted & others)) - inner
            body, tail = self._cut(BODY, results), self._cut(TAIL, self.graph.outputs)
            ours = dict.fromkeys([*entries, *self.place.sum, *body.crossing, *tail.crossing])
            made = [value for value in ours if value not in results and value.producer() is not None]
            cuts = [self._cut(HEAD, made), body, tail]
        read = {value for cut in cuts for value in cut.inputs}
        first = cuts[0].inputs
        first[:] = [value for value in self.graph.inputs if value in first or value not in read]  # also unread ones
        return cuts

    def _cut(self, name: str, outputs: Iterable[ir.Value]) -> Cut:
        """Walk from the outputs of a part back to what others hand to it."""
        cut = Cut(name=name, outputs=list(outputs))
        pending, seen = list(cut.outputs), set(cut.outputs)
        while pending:
            value = pending.pop()
            if value.is_graph_input():
                cut.inputs.append(value)
            elif name != HEAD and value not in cut.outputs and self._is_handed_over(value):
                cut.crossing.append(value)
            elif (node := value.producer()) is not None:
                new = [one for one in node.inputs if one is not None and one not in seen]
                seen.update(new)
                pending += new
        order = {value: index for index, value in enumerate(self.graph.inputs)}
        cut.inputs.sort(key=order.__getitem__)
        return cut

    def _is_handed_over(self, value: ir.Value) -> bool:
        if value in self.place.results or (self.head and value in self.place.entries):
            return True
        return value in self.head and value in self.worth and is_handed_over(value)
