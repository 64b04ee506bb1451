"""Rewrites of the portable graph for ONNX Runtime, each kept because it was measured to pay."""

from diffoundry.targets.onnxruntime.fusions.attention import FuseMultiHeadAttention
from diffoundry.targets.onnxruntime.fusions.group_norm import SplitGroupNorm
from diffoundry.targets.onnxruntime.fusions.winograd import WinogradConvolution

__all__ = ["FuseMultiHeadAttention", "SplitGroupNorm", "WinogradConvolution"]
