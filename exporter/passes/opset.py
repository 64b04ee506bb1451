"""The opset of every portable graph."""

import onnx_ir as ir

__all__ = ["OPSET", "require_opset"]

OPSET = 23
"""Lowest opset in which attention, group normalization and GELU are one operator each, and the highest that all
targets take: ONNX Runtime from 1.23, OpenVINO 2026.4, TensorRT-RTX 1.7, and torch's exporter writes it directly.
Measurements in docs/design/graph.md."""


def require_opset(model: ir.Model, lowest: int, operator: str) -> None:
    """Raise unless the graph's opset has `operator`.

    Raises:
        PreconditionError: It is older than `lowest`.
    """
    version = model.opset_imports.get("", 0)
    if version < lowest:
        raise ir.passes.PreconditionError(
            f"the graph has opset {version}, expected {lowest} or later for {operator}; trace it with opset {OPSET}"
        )
