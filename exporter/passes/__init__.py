"""ONNX graph passes that run before every target."""

from diffoundry.exporter.passes.half_precision import KeepList, to_fp16
from diffoundry.exporter.passes.opset import OPSET
from diffoundry.exporter.passes.pipeline import optimize, portable_passes

__all__ = ["OPSET", "KeepList", "optimize", "portable_passes", "to_fp16"]
