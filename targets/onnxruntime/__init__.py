"""ONNX Runtime: CPU everywhere, CUDA where onnxruntime-gpu is installed."""

from diffoundry.runtime.engines.plugins import TargetPlugin

__all__ = ["PLUGIN"]

PLUGIN = TargetPlugin(
    name="onnxruntime",
    summary="ONNX Runtime (CPU, CUDA): fp32, fp16, int8",
    module="onnxruntime",
    extra="onnxruntime",
    target="diffoundry.targets.onnxruntime.build.target:OnnxRuntimeTarget",
    engine="diffoundry.targets.onnxruntime.run.engine:OnnxRuntimeEngine",
    devices="diffoundry.targets.onnxruntime.run.engine:devices",
    precisions="diffoundry.targets.onnxruntime.run.engine:precisions",
)
