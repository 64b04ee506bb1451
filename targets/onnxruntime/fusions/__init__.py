"""Rewrites of the portable graph for ONNX Runtime, each kept because it was measured to pay."""

from diffoundry.targets.onnxruntime.fusions.attention import FuseMultiHeadAttention

__all__ = ["FuseMultiHeadAttention"]
