"""OpenVINO: CPUs, GPUs and NPUs of Intel, CPUs of ARM."""

from diffoundry.runtime.engines.plugins import TargetPlugin

__all__ = ["PLUGIN"]

PLUGIN = TargetPlugin(
    name="openvino",
    summary="OpenVINO (CPU, GPU, NPU), fp32, bf16, fp16, int8 and weights in int8 or int4",
    module="openvino",
    extra="openvino",
    target="diffoundry.targets.openvino.build.target:OpenVinoTarget",
    engine="diffoundry.targets.openvino.run.engine:OpenVinoEngine",
    devices="diffoundry.targets.openvino.run.devices:devices",
    precisions="diffoundry.targets.openvino.run.devices:precisions",
)
