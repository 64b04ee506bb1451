"""Makes palettes from the weights before quantization, with as many bits as the quantized graph gives each weight."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.targets.coreml.build.translation import PALETTE_KEY
from diffoundry.targets.graph_edit import producer, remove_unused
from diffoundry.targets.weight_data import read_weight

__all__ = ["recipe_palette"]

_WEIGHT_INPUT = {"Conv": 1, "Gather": 0, "Gemm": 1, "MatMul": 1}

_BITS = {ir.DataType.INT8: 8, ir.DataType.UINT8: 8, ir.DataType.INT4: 4, ir.DataType.UINT4: 4}


def recipe_palette(model: ir.Model, portable: Path) -> int:
    """Put the portable graph's weights back into a quantized graph, marked with the bits that they had there.

    Calibration chose which weights take 4 bits, which 8, and which stay in floats; a table found by k-means is nearer
    to a weight than as many evenly spaced numbers are, so the choice holds for palettes all the more. A weight that
    was changed before it was quantized (scaled towards its activations, or less a branch of low rank) is left alone.

    Given:
        %w = DequantizeLinear(%w_int4, %scale)                # %w_int4: int4
        %y = MatMul(%x, %w)
    Result:
        %y = MatMul<diffoundry.palette=4>(%x, %w_float)       # %w_float: of the type of %scale

    Args:
        model: The quantized graph, changed in place.
        portable: The fp32 graph with the same nodes.

    Returns:
        How many weights were put back.
    """
    originals = {node.name: node for node in ir.load(portable).graph}
    count = 0
    for node in tuple(model.graph):
        place = _WEIGHT_INPUT.get(node.op_type)
        original = originals.get(node.name)
        dequantize = None if place is None else producer(node.inputs[place], "DequantizeLinear")
        if place is None or dequantize is None or original is None or original.op_type != node.op_type:
            continue
        floats, data, scale = original.inputs[place], dequantize.inputs[0], dequantize.inputs[1]
        if floats is None or floats.const_value is None or data is None or data.dtype not in _BITS or scale is None:
            continue
        if not _was(floats.const_value, dequantize):
            continue
        restored = _initializer(model.graph, floats, scale.dtype)
        node.replace_input_with(place, restored)
        node.metadata_props[PALETTE_KEY] = str(_BITS[data.dtype])
        remove_unused(dequantize)
        count += 1
    return count


def _initializer(graph: ir.Graph, floats: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    """The weight `floats` of another graph as an initializer of `graph`, converted when it is read."""
    assert dtype is not None
    name = f"{floats.name}_restored"
    if name not in graph.initializers:
        tensor = floats.const_value
        assert tensor is not None

        def convert() -> ir.TensorProtocol:
            return ir.tensor(read_weight(tensor).astype(dtype.numpy()), name=name)

        lazy = ir.LazyTensor(convert, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=lazy)
        graph.register_initializer(value)
    return graph.initializers[name]


def _was(floats: ir.TensorProtocol, dequantize: ir.Node) -> bool:
    """Return True if a weight rounds to the integers of a DequantizeLinear, to within one step."""
    data, scale, *rest = (
        None if value is None or value.const_value is None else read_weight(value.const_value)
        for value in dequantize.inputs
    )
    if data is None or scale is None or data.shape != tuple(floats.shape.numpy()):
        return False
    axis = dequantize.attributes.get_int("axis", 1)
    steps = read_weight(floats) / _whole(scale.astype(np.float32), data.shape, axis)
    zero = 0.0 if not rest or rest[0] is None else _whole(rest[0].astype(np.float32), data.shape, axis)
    return bool(np.max(np.abs(np.clip(steps + zero, *_range(dequantize)) - data.astype(np.float32))) <= 1)


def _range(dequantize: ir.Node) -> tuple[int, int]:
    data = dequantize.inputs[0]
    assert data is not None
    assert data.dtype is not None
    bits = _BITS[data.dtype]
    return (
        (0, (1 << bits) - 1)
        if data.dtype in (ir.DataType.UINT8, ir.DataType.UINT4)
        else (-(1 << bits - 1), (1 << bits - 1) - 1)
    )


def _whole(numbers: npt.NDArray[np.float32], shape: tuple[int, ...], axis: int) -> npt.NDArray[np.float32]:
    """Scales of a tensor, of an axis, or of blocks, in a form that broadcasts to the tensor's."""
    if numbers.ndim == len(shape) > 1:
        return np.repeat(numbers, shape[axis] // numbers.shape[axis], axis=axis)
    along = [1] * len(shape)
    if numbers.size > 1:
        along[axis] = numbers.size
    return numbers.reshape(along)
