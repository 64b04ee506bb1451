"""OpenVINO: CPUs, GPUs and NPUs of Intel, CPUs of ARM."""

from diffoundry.runtime.engines.plugins import TargetPlugin

__all__ = ["PLUGIN"]

PLUGIN = TargetPlugin(
    name="openvino",
    summary="OpenVINO (CPU, GPU, NPU)",
    module="openvino",
    extra="openvino",
    target="diffoundry.targets.openvino.build.target:OpenVinoTarget",
    engine="diffoundry.targets.openvino.run.engine:OpenVinoEngine",
    devices="diffoundry.targets.openvino.run.devices:devices",
    precisions="diffoundry.targets.openvino.run.devices:precisions",
    builds_anywhere=True,
    compiles=("fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights"),
    reproducible=True,
    pieces=True,
)
