"""Rewrites a graph so that its tokens can be computed as (B, C, 1, S): heads in the channels, images flat."""

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from diffoundry.targets.coreml.build.translation import shape_of
from diffoundry.targets.graph_edit import new_initializer, producer, remove_unused, replace, sole_user

__all__ = ["AttentionOnTokens", "FlattenImages"]

_HEADS = (0, 2, 1, 3)


class AttentionOnTokens(ir.passes.InPlacePass):
    """Lets Attention split and join the heads itself.

    Given:
        %q4 = Transpose<perm=[0, 2, 1, 3]>(Reshape(%q, [2, 4096, 8, 40]))       # %k4, %v4 alike
        %y = Reshape(Transpose<perm=[0, 2, 1, 3]>(Attention(%q4, %k4, %v4)), [2, 4096, 320])
    Result:
        %y = Attention<q_num_heads=8, kv_num_heads=8>(%q, %k, %v)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every such attention."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "Attention" and node.domain == "" and len(shape_of(node.inputs[0])) == 4:
                modified |= _join_heads(node)
        return ir.passes.PassResult(model, modified)


class FlattenImages(ir.passes.InPlacePass):
    """Makes images flat before they become tokens, and tokens channels before they become images.

    Given:
        %t = Reshape(Transpose<perm=[0, 2, 3, 1]>(%x), [2, 4096, 320])          # %x: [2, 320, 64, 64]
        %y = Transpose<perm=[0, 3, 1, 2]>(Reshape(%u, [2, 64, 64, 320]))
    Result:
        %t = Transpose<perm=[0, 2, 1]>(Reshape(%x, [2, 320, 4096]))
        %y = Reshape(Transpose<perm=[0, 2, 1]>(%u), [2, 320, 64, 64])
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every such pair."""
        modified = False
        for node in tuple(model.graph):
            if node.graph is None:
                continue
            if node.op_type == "Reshape":
                modified |= _flatten(node, model.graph)
            elif node.op_type == "Transpose":
                modified |= _unflatten(node, model.graph)
        return ir.passes.PassResult(model, modified)


def _join_heads(node: ir.Node) -> bool:
    sources = [_split_into_heads(value) for value in node.inputs[:3]]
    turned = sole_user(node.outputs[0])
    joined = sole_user(turned.outputs[0]) if turned is not None and turned.op_type == "Transpose" else None
    if any(source is None for source in sources) or turned is None or joined is None or joined.op_type != "Reshape":
        return False
    batch, heads, tokens, width = shape_of(node.outputs[0])
    if turned.attributes.get_ints("perm", ()) != _HEADS or shape_of(joined.outputs[0]) != (
        batch,
        tokens,
        heads * width,
    ):
        return False
    old = [value.producer() for value in node.inputs[:3] if value is not None]
    flat = ir.node("Attention", [*sources, *node.inputs[3:]], {}, name=node.name, version=node.version, num_outputs=1)
    flat.attributes.update(node.attributes)
    flat.attributes["q_num_heads"] = ir.AttrInt64("q_num_heads", heads)
    flat.attributes["kv_num_heads"] = ir.AttrInt64("kv_num_heads", heads)
    replace(joined.outputs[0], flat.outputs[0], [flat])
    for maker in old:
        if maker is not None:
            remove_unused(maker)
    return True


def _split_into_heads(value: ir.Value | None) -> ir.Value | None:
    """Return the value that (B, heads, S, width) was split from, or None."""
    turned = producer(value, "Transpose")
    split = None if turned is None else producer(turned.inputs[0], "Reshape")
    if turned is None or split is None or turned.attributes.get_ints("perm", ()) != _HEADS:
        return None
    source, (batch, tokens, heads, width) = split.inputs[0], shape_of(split.outputs[0])
    return source if source is not None and shape_of(source) == (batch, tokens, heads * width) else None


def _flatten(reshape: ir.Node, graph: ir.Graph) -> bool:
    turned = producer(reshape.inputs[0], "Transpose")
    if turned is None or turned.attributes.get_ints("perm", ()) != (0, 2, 3, 1):
        return False
    source = turned.inputs[0]
    batch, channels, height, width = shape_of(source)
    if source is None or shape_of(reshape.outputs[0]) != (batch, height * width, channels):
        return False
    _swap(reshape.outputs[0], graph, source, (batch, channels, height * width), None)
    return True


def _unflatten(transpose: ir.Node, graph: ir.Graph) -> bool:
    image = producer(transpose.inputs[0], "Reshape")
    if image is None or transpose.attributes.get_ints("perm", ()) != (0, 3, 1, 2):
        return False
    source = image.inputs[0]
    batch, channels, height, width = shape_of(transpose.outputs[0])
    if source is None or shape_of(source) != (batch, height * width, channels):
        return False
    _swap(transpose.outputs[0], graph, source, None, (batch, channels, height, width))
    return True


def _swap(old: ir.Value, graph: ir.Graph, source: ir.Value, *steps: tuple[int, ...] | None) -> None:
    """Make `old` from `source` step by step: reshaped to a shape, or for None its last two axes exchanged."""
    builder = tape.Tape()
    value = source
    shape = shape_of(source)
    for wanted in steps:
        if wanted is None:
            shape = (shape[0], shape[2], shape[1])
            value = builder.op("Transpose", [value], {"perm": [0, 2, 1]})
        else:
            shape = wanted
            name = "flat_shape_" + "x".join(map(str, wanted))
            value = builder.op("Reshape", [value, new_initializer(graph, name, np.array(wanted, dtype=np.int64))])
        value.shape, value.type = ir.Shape(shape), source.type
    replace(old, value, builder.nodes)
