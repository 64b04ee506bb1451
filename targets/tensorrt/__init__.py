"""TensorRT and TensorRT for RTX: one backend, two libraries."""

from diffoundry.runtime.engines.plugins import TargetPlugin

__all__ = ["RTX_PLUGIN", "TENSORRT_PLUGIN"]

_HERE = "diffoundry.targets.tensorrt"

_COMPILES = ("fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights", "fp8")

TENSORRT_PLUGIN = TargetPlugin(
    name="tensorrt",
    summary="TensorRT (NVIDIA GPUs), built on the GPU it runs on",
    module="tensorrt",
    extra="tensorrt",
    target=f"{_HERE}.build.target:TensorRTTarget",
    engine=f"{_HERE}.run.engine:open_tensorrt",
    devices=f"{_HERE}.run.engine:tensorrt_devices",
    precisions=f"{_HERE}.run.engine:tensorrt_precisions",
    defers=True,
    compiles=_COMPILES,
)

RTX_PLUGIN = TargetPlugin(
    name="tensorrt-rtx",
    summary="TensorRT for RTX (GeForce and RTX GPUs)",
    module="tensorrt_rtx",
    extra="tensorrt-rtx",
    target=f"{_HERE}.build.target:RTXTarget",
    engine=f"{_HERE}.run.engine:open_rtx",
    devices=f"{_HERE}.run.engine:rtx_devices",
    precisions=f"{_HERE}.run.engine:rtx_precisions",
    defers=True,
    builds_anywhere=True,
    compiles=_COMPILES,
)
