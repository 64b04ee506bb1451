"""Splits transpositions of more axes than Core ML takes into several of four."""

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from diffoundry.targets.coreml.build.program import LARGEST_RANK
from diffoundry.targets.coreml.build.translation import shape_of
from diffoundry.targets.graph_edit import new_initializer, producer, replace, sole_user

__all__ = ["SplitTransposes"]


class SplitTransposes(ir.passes.InPlacePass):
    """Moves one axis at a time where a transposition has more than five.

    Given:
        %r = Reshape(%x, [n, h, w, p, q, c])
        %e = Einsum<"nhwpqc->nchpwq">(%r)                   # or Transpose
        %y = Reshape(%e, [n, c, h * p, w * q])
    Result:
        %a = Transpose<[0, 2, 1, 3]>(Reshape(%x, [n, h * w * p * q, c, 1]))          # n c h w p q
        %b = Transpose<[0, 2, 1, 3]>(Reshape(%a, [n * c * h, w, p, q]))              # n c h p w q
        %y = Reshape(%b, [n, c, h * p, w * q])

    Transformers turn tokens of patches into latents in this way. Neighbours that stay together count as one axis.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every such transposition of a graph whose sizes are numbers."""
        modified = False
        for node in tuple(model.graph):
            order = _order(node)
            if order is not None and len(order) > LARGEST_RANK:
                modified |= _rewrite(model.graph, node, order)
        return ir.passes.PassResult(model, modified)


def _order(node: ir.Node) -> list[int] | None:
    """Return the permutation of a Transpose, or of an Einsum that only permutes; None for other nodes."""
    if node.op_type == "Transpose" and node.domain == "":
        return list(node.attributes.get_ints("perm", ()))
    if node.op_type != "Einsum" or len(node.inputs) != 1:
        return None
    before, arrow, after = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    permutes = arrow and len(set(before)) == len(before) and sorted(before) == sorted(after)
    return [before.index(letter) for letter in after] if permutes else None


def _rewrite(graph: ir.Graph, node: ir.Node, order: list[int]) -> bool:
    """Replace the transposition between its two Reshapes; False when it has other neighbours."""
    given, result = node.inputs[0], node.outputs[0]
    first, last = producer(given, "Reshape"), sole_user(result)
    if given is None or first is None or sole_user(given) is not node or last is None or last.op_type != "Reshape":
        return False
    builder = tape.Tape()
    x, axes, sizes = first.inputs[0], list(range(len(order))), list(shape_of(given))
    assert x is not None
    for place, axis in enumerate(order):
        where = axes.index(axis)
        if where == place:
            continue
        parts = [sizes[:place], sizes[place:where], sizes[where : where + 1], sizes[where + 1 :]]
        view = builder.op("Reshape", [x, _shape(graph, [int(np.prod(part)) for part in parts])])
        x = builder.op("Transpose", [view], {"perm": [0, 2, 1, 3]})
        shape = [int(np.prod(parts[number])) for number in (0, 2, 1, 3)]
        view.type = x.type = result.type
        view.shape, x.shape = ir.Shape([int(np.prod(part)) for part in parts]), ir.Shape(shape)
        axes.insert(place, axes.pop(where))
        sizes.insert(place, sizes.pop(where))
    out = last.outputs[0]
    final = builder.op("Reshape", [x, _shape(graph, list(shape_of(out)))])
    replace(out, final, builder.nodes)
    return True


def _shape(graph: ir.Graph, sizes: list[int]) -> ir.Value:
    return new_initializer(graph, f"shape_{'_'.join(map(str, sizes))}", np.array(sizes, np.int64))
