"""Rewrites of the portable graph for ONNX Runtime, each kept because it was measured to pay."""

from diffoundry.targets.onnxruntime.build.fusions.dequantize_first import DequantizeFirst
from diffoundry.targets.onnxruntime.build.fusions.fuse_attention import FuseMultiHeadAttention
from diffoundry.targets.onnxruntime.build.fusions.split_group_norm import SplitGroupNorm
from diffoundry.targets.onnxruntime.build.fusions.winograd_convolution import WinogradConvolution

__all__ = ["DequantizeFirst", "FuseMultiHeadAttention", "SplitGroupNorm", "WinogradConvolution"]
