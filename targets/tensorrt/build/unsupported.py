"""Lists what TensorRT cannot take, before any work and without the library."""

import numpy as np
import onnx_ir as ir

from diffoundry.targets.graph_edit import constant

__all__ = ["UNSUPPORTED_OPERATORS", "unsupported"]

_NEWEST_OPSET = 27
"""The newest that the parser of TensorRT for RTX 1.7 was seen to take."""

UNSUPPORTED_OPERATORS = frozenset(
    {
        "Bernoulli",
        "Col2Im",
        "Compress",
        "ConvInteger",
        "DFT",
        "DeformConv",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "Multinomial",
        "QLinearConv",
        "QLinearMatMul",
        "Unique",
    }
)
"""Operators of the standard that no TensorRT parser takes; the tests ask the real one."""

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def unsupported(model: ir.Model) -> list[str]:
    """Why TensorRT cannot take a graph, one sentence a reason; empty when it can."""
    reasons = []
    for domain, version in model.opset_imports.items():
        if domain not in ("", "ai.onnx"):
            reasons.append(f"the graph has operators of {domain!r}, TensorRT has none of them")
        elif version > _NEWEST_OPSET:
            reasons.append(f"the graph needs opset {version} of ONNX, TensorRT takes up to {_NEWEST_OPSET}")
    for node in model.graph:
        reason = _node_reason(node)
        if reason is not None:
            reasons.append(f"node {node.name!r}, operator {node.op_type!r}: {reason}")
    return reasons


def _node_reason(node: ir.Node) -> str | None:
    if node.domain in ("", "ai.onnx") and node.op_type in UNSUPPORTED_OPERATORS:
        return "TensorRT has no such operator"
    if node.op_type == "Resize" and node.attributes.get_int("antialias", 0) != 0:
        return "TensorRT resizes without antialiasing only"
    if node.op_type in _QUANTIZERS:
        return _quantizer_reason(node)
    return None


def _quantizer_reason(node: ir.Node) -> str | None:
    """TensorRT would read unsigned numbers as signed ones, with no more than a warning."""
    narrow = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    types = {value.dtype for value in (narrow, zero) if value is not None}
    if types & {ir.DataType.UINT8, ir.DataType.UINT4}:
        return "TensorRT has no unsigned quantized types; quantize symmetrically to int8"
    if ir.DataType.FLOAT8E5M2 in types:
        return "TensorRT has no fp8 but E4M3"
    if ir.DataType.INT32 in types:
        return "TensorRT has no quantized biases; leave them in float"
    offset = constant(zero)
    if offset is not None and np.any(offset.astype(np.float32) != 0):
        return "TensorRT has no zero points but 0; quantize symmetrically"
    return None
