"""ONNX Runtime: CPU everywhere, CUDA where onnxruntime-gpu is installed."""

from diffoundry.runtime.engines.plugins import TargetPlugin

__all__ = ["PLUGIN"]

PLUGIN = TargetPlugin(
    name="onnxruntime",
    summary="ONNX Runtime (CPU, CUDA)",
    module="onnxruntime",
    extra="onnxruntime",
    target="diffoundry.targets.onnxruntime.build.target:OnnxRuntimeTarget",
    engine="diffoundry.targets.onnxruntime.run.engine:OnnxRuntimeEngine",
    devices="diffoundry.targets.onnxruntime.run.engine:devices",
    precisions="diffoundry.targets.onnxruntime.run.engine:precisions",
    builds_anywhere=True,
    compiles=("fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights"),
    reproducible=True,
    pieces=True,
)
