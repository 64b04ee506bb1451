"""Runs a portable graph in ONNX Runtime, with group normalizations as exact as the other operators."""

from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from diffoundry.targets.onnxruntime.build.fusions import SplitGroupNorm
from diffoundry.targets.onnxruntime.run.engine import OnnxRuntimeEngine

__all__ = ["PortableEngine"]

_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's option for the folder of the weights of a graph in memory."""


class PortableEngine(OnnxRuntimeEngine):
    """A session of a portable graph, on the CPU.

    ONNX Runtime computes GroupNormalization as ONNX defines it, with the variance E(x^2) - E(x)^2. Where a group's mean
    is large beside its deviation this loses digits: a small UNet of DeepFloyd IF was off by 6e-5 of RMS.
    `SplitGroupNorm`, with which engines are made too, subtracts the mean first.
    """

    def _create(self, path: Path, settings: ort.SessionOptions) -> ort.InferenceSession:
        model = ir.load(path)
        SplitGroupNorm(by_rows=True)(model)
        settings.add_session_config_entry(_DATA_FOLDER, str(path.parent))
        return ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
