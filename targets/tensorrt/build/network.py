"""Fills a network from an ONNX file and a builder's configuration from a job; the caller passes the module."""

from pathlib import Path
from typing import Any

from diffoundry.targets.tensorrt.build.job import BuildJob, Failure
from diffoundry.targets.tensorrt.failures import build_failure, parse_failure
from diffoundry.targets.tensorrt.message_log import MessageLog
from diffoundry.targets.tensorrt.sdk import SDKS

__all__ = ["configure", "parse"]


def parse(trt: Any, network: Any, log: MessageLog, graph: Path) -> Failure | None:
    """Parse an ONNX file, its external data beside it, into a network; why it cannot be, or None."""
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(graph)):
        if not parser.num_errors:
            return build_failure(log.errors())
        error = parser.get_error(0)
        return parse_failure(error.node_name(), error.node_operator(), error.code().name, error.func(), error.desc())
    _let_attentions_decompose(trt, network)
    return None


def _let_attentions_decompose(trt: Any, network: Any) -> None:
    """Allow every attention to be computed by several kernels, where there is no fused one for its size and type.

    By default the build fails there; where a fused kernel exists it is still taken.
    """
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def configure(trt: Any, builder: Any, job: BuildJob, monitor: Any) -> Any:
    """The builder's configuration for a job."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = monitor
    # On by default, it would round what fp32 convolutions and products read to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    for flag in job.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if SDKS[job.target].compute_capabilities:
        config.num_compute_capabilities = len(job.compute_capabilities)
        for index, capability in enumerate(job.compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)
    for named in job.profiles:
        if named.shapes:
            profile = builder.create_optimization_profile()
            for tensor, (smallest, preferred, largest) in named.shapes.items():
                profile.set_shape(tensor, smallest, preferred, largest)
            config.add_optimization_profile(profile)
    return config
