"""TensorRT and TensorRT for RTX: one backend, two libraries."""

from diffoundry.runtime.engines.plugins import TargetPlugin

__all__ = ["RTX_PLUGIN", "TENSORRT_PLUGIN"]

_HERE = "diffoundry.targets.tensorrt"

TENSORRT_PLUGIN = TargetPlugin(
    name="tensorrt",
    summary="TensorRT (NVIDIA GPUs): fp32, fp16, bf16, int8, int4, fp8; built on the GPU it runs on",
    module="tensorrt",
    extra="tensorrt",
    target=f"{_HERE}.build.target:TensorRTTarget",
    engine=f"{_HERE}.run.engine:open_tensorrt",
    devices=f"{_HERE}.run.engine:tensorrt_devices",
    precisions=f"{_HERE}.run.engine:tensorrt_precisions",
    defers=True,
)

RTX_PLUGIN = TargetPlugin(
    name="tensorrt-rtx",
    summary="TensorRT for RTX (GeForce and RTX GPUs): fp32, fp16, bf16, int8, int4, fp8; built on any x86-64 machine",
    module="tensorrt_rtx",
    extra="tensorrt-rtx",
    target=f"{_HERE}.build.target:RTXTarget",
    engine=f"{_HERE}.run.engine:open_rtx",
    devices=f"{_HERE}.run.engine:rtx_devices",
    precisions=f"{_HERE}.run.engine:rtx_precisions",
    defers=True,
)
