"""QuantizeLinear and DequantizeLinear: of activations as operators, of constants as compressed weights."""

from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.translation import Translation, Var, shape_of
from diffoundry.targets.coreml.build.weights import Scaled
from diffoundry.targets.coreml.names import clean_name
from diffoundry.targets.weight_data import read_weight

__all__ = ["dequantize", "dequantize_limits", "quantize", "quantize_limits"]

_BITS = {ir.DataType.INT8: 8, ir.DataType.UINT8: 8, ir.DataType.INT4: 4, ir.DataType.UINT4: 4}

_UNSIGNED = (ir.DataType.UINT8, ir.DataType.UINT4)


def quantize(t: Translation, node: ir.Node) -> Var:
    """QuantizeLinear of an activation."""
    scale, zero_point, axis = _parameters(t, node)
    return mb.quantize(
        input=t.var(node.inputs[0]),
        scale=scale,
        zero_point=zero_point,
        axis=axis,
        output_dtype="uint8" if node.outputs[0].dtype == ir.DataType.UINT8 else "int8",
    )


def quantize_limits(node: ir.Node, opset: Any) -> str | None:
    """8 bits, constant scales, from iOS 17 on."""
    return _activation_limits(node, node.outputs[0].dtype, opset)


def dequantize(t: Translation, node: ir.Node) -> Var | None:
    """DequantizeLinear; a constant is noted as a weight and stored where a layer asks for it."""
    data = node.inputs[0]
    assert data is not None
    if data.const_value is None:
        scale, zero_point, axis = _parameters(t, node)
        return mb.dequantize(input=t.var(data), scale=scale, zero_point=zero_point, axis=axis)
    assert data.dtype is not None
    kind: type[np.generic] = np.uint8 if data.dtype in _UNSIGNED else np.int8
    shape, axis = shape_of(data), node.attributes.get_int("axis", 1)
    scale, zero_point = (t.array(value) for value in [*node.inputs[1:], None][:2])
    assert scale is not None
    weight = Scaled(
        data=read_weight(data.const_value).astype(kind),
        scale=_spread(scale, shape, axis),
        zero_point=None
        if zero_point is None or not np.any(zero_point)
        else _spread(zero_point.astype(kind), shape, axis),
        bits=_BITS[data.dtype],
        name=clean_name(data.name or ""),
    )
    t.set_scaled(node.outputs[0], weight)
    return None


def dequantize_limits(node: ir.Node, opset: Any) -> str | None:
    """8 bits, or 4 of weights, in blocks from iOS 18 on."""
    data, scale = node.inputs[0], node.inputs[1]
    if data is not None and data.const_value is None:
        return _activation_limits(node, data.dtype, opset)
    if data is None or data.dtype not in _BITS:
        return f"has weights of type {data and data.dtype}, expected int8, uint8, int4 or uint4"
    if opset < ct.target.iOS18 and (_BITS[data.dtype] == 4 or len(shape_of(scale)) > 1):
        return (
            "has weights of 4 bits or scales in blocks, which Core ML takes from iOS 18 on; choose "
            "--deployment-target iOS18"
        )
    return None


def _parameters(t: Translation, node: ir.Node) -> tuple[Any, Any, int | None]:
    """Scale, zero point (None for zero) and axis (None for a single scale) of an activation."""
    scale, zero_point = (t.array(value) for value in [*node.inputs[1:], None][:2])
    assert scale is not None
    if zero_point is not None and not np.any(zero_point):
        zero_point = None
    return scale, zero_point, node.attributes.get_int("axis", 1) if scale.ndim else None


def _activation_limits(node: ir.Node, stored: ir.DataType | None, opset: Any) -> str | None:
    if opset < ct.target.iOS17:
        return "quantizes activations, which Core ML does from iOS 17 on; choose --deployment-target iOS17"
    if stored not in (ir.DataType.INT8, ir.DataType.UINT8):
        return f"quantizes activations to {stored}, expected int8 or uint8"
    if any(value is not None and value.const_value is None for value in node.inputs[1:]):
        return "computes its scale, expected a constant"
    return None


def _spread(numbers: npt.NDArray[Any], shape: tuple[int, ...], axis: int) -> npt.NDArray[Any]:
    """Scales of a tensor, of an axis, or of blocks, in the rank of the tensor."""
    if numbers.ndim == len(shape) > 1:
        return numbers
    along = [1] * len(shape)
    if numbers.size > 1:
        along[axis] = numbers.size
    return numbers.reshape(along)
