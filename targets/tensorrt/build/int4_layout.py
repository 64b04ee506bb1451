"""Moves the blocks of convolutions' int4 weights to the axis that TensorRT takes, the last but one."""

import onnx_ir as ir
from onnx_ir import tape

from diffoundry.targets.graph_edit import new_initializer, replace

__all__ = ["FlattenBlocks"]


class FlattenBlocks(ir.passes.InPlacePass):
    """Makes one axis of those behind the one that a weight's blocks lie along.

    Given:
        %w = DequantizeLinear<axis=1, block_size=64>(%w_int4, %scale)       # (out, in, 3, 3)
    Result:
        %f = DequantizeLinear<axis=1, block_size=64>(%w_int4.flat, %scale.flat)      # (out, in, 9)
        %w = Reshape(%f, [out, in, 3, 3])

    TensorRT takes blocks along the last or the last but one axis only. Not a byte of the weight changes, so that it
    stays in its file.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every DequantizeLinear whose blocks lie further in front."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "DequantizeLinear" and node.domain == "" and _is_in_front(node):
                _rewrite(node, model.graph)
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_in_front(node: ir.Node) -> bool:
    weight = node.inputs[0]
    if weight is None or weight.const_value is None or not node.attributes.get_int("block_size", 0):
        return False
    return _axis(node, weight.const_value) < len(weight.const_value.shape) - 2


def _axis(node: ir.Node, weight: ir.TensorProtocol) -> int:
    return node.attributes.get_int("axis", 1) % len(weight.shape)


def _rewrite(node: ir.Node, graph: ir.Graph) -> None:
    weight = node.inputs[0]
    assert weight is not None, "DequantizeLinear reads a weight"
    assert weight.const_value is not None, "the weight is an initializer"
    axis, shape = _axis(node, weight.const_value), weight.const_value.shape.numpy()
    builder = tape.Tape()
    flat = [None if value is None else _flat(graph, value, axis) for value in node.inputs]
    attributes = {"axis": axis, "block_size": node.attributes.get_int("block_size", 0)}
    plain = builder.op("DequantizeLinear", flat, attributes)
    plain.type = node.outputs[0].type
    name = f"shape_{'_'.join(map(str, shape))}"
    target = new_initializer(graph, name, ir.tensor(list(shape), dtype=ir.DataType.INT64, name=name))
    replace(node.outputs[0], builder.op("Reshape", [plain, target]), builder.nodes)


def _flat(graph: ir.Graph, value: ir.Value, axis: int) -> ir.Value:
    """Return an initializer whose axes behind `axis` are one; the bytes are those of the old one."""
    tensor = value.const_value
    assert tensor is not None, "scales and zero points are initializers"
    name, sizes = f"{value.name}.flat", tensor.shape.numpy()
    rest = 1
    for size in sizes[axis + 1 :]:
        rest *= size
    shape = ir.Shape([*sizes[: axis + 1], rest])
    if isinstance(tensor, ir.ExternalTensor):
        return new_initializer(graph, name, _external(tensor, name, shape))
    return new_initializer(graph, name, ir.tensor(tensor.numpy().reshape(shape.numpy()), dtype=tensor.dtype, name=name))


def _external(tensor: ir.ExternalTensor, name: str, shape: ir.Shape) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        tensor.location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=shape,
        name=name,
        base_dir=tensor.base_dir,
    )
