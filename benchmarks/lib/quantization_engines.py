"""Runs a graph file in the vendor's own session, with the same settings for every quantization tool."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from diffoundry.runtime.bundle.specs import EngineSpec

__all__ = ["OPENERS", "OnnxRuntimeFile", "OpenVinoFile"]

Feeds = Mapping[str, np.ndarray]


class _File:
    """An engine for `FixedEngines`."""

    def __init__(self, spec: EngineSpec) -> None:
        self.inputs, self.outputs = spec.inputs, spec.outputs

    def close(self) -> None:
        """Do nothing: the session ends with the object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenVinoFile(_File):
    """An OpenVINO model on the CPU."""

    def __init__(self, path: Path, spec: EngineSpec, threads: int, hint: str, feeds: Feeds | None = None) -> None:
        """Compile, with the sizes of `feeds` fixed when passed."""
        import openvino

        super().__init__(spec)
        core = openvino.Core()
        model = core.read_model(path)
        if feeds is not None:
            model.reshape({name: list(array.shape) for name, array in feeds.items()})
        config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        self._compiled = core.compile_model(model, "CPU", config)
        self._request = self._compiled.create_infer_request()
        self._types = {port.get_any_name(): port.get_element_type().to_dtype() for port in self._compiled.inputs}

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Run once."""
        found = self._request.infer({name: array.astype(self._types[name]) for name, array in feeds.items()})
        return {spec.name: np.array(found[spec.name]) for spec in self.outputs}


class OnnxRuntimeFile(_File):
    """A graph in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, spec: EngineSpec, threads: int, hint: str, feeds: Feeds | None = None) -> None:  # noqa: ARG002
        """Open a session."""
        import onnxruntime

        super().__init__(spec)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        # Waiting threads would take the cores from the other rows.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Run once."""
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))


OPENERS = {"openvino": OpenVinoFile, "onnxruntime": OnnxRuntimeFile}
