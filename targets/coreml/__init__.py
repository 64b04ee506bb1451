"""Core ML: packages for Apple's devices, made on any machine, run on a Mac."""

import logging

from diffoundry.runtime.engines.plugins import TargetPlugin

__all__ = ["PLUGIN"]

# Before anything imports coremltools: it reports at import what it lacks on Linux and cannot be asked not to.
logging.getLogger("coremltools").setLevel(logging.ERROR)

PLUGIN = TargetPlugin(
    name="coreml",
    summary="Core ML (Apple CPU, GPU, Neural Engine)",
    module="coremltools",
    extra="coreml",
    target="diffoundry.targets.coreml.build.target:CoreMlTarget",
    engine="diffoundry.targets.coreml.run.engine:CoreMlEngine",
    devices="diffoundry.targets.coreml.run.engine:devices",
    precisions="diffoundry.targets.coreml.run.engine:precisions",
    builds_anywhere=True,
    compiles=("fp32", "fp16", "int8", "int8-weights", "int4-weights"),
    reproducible=True,
)
