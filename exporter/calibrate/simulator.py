"""Runs graphs on this machine exactly as written, without an engine's own kernels for quantized operators."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from diffoundry.runtime.engines.protocol import Array, Closeable, Engine
from diffoundry.runtime.errors import EngineError, MissingExtraError
from diffoundry.targets.base import tensor_specs

__all__ = ["Simulator"]

_PREFIX = "calibrating-"
"""Prefix of the files that exist while an engine is open."""


class Simulator:
    """Opens graphs whose weights lie in one folder.

    ONNX Runtime computes every operator in float32 and rounds where the graph says so. The results do not depend on the
    machine's int8 kernels.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Store the folder, and remove the leftovers of an interrupted run.

        Args:
            folder: Folder of the graphs' external data; graphs are written here while their engines are open.
            threads: Threads of one call, or None for ONNX Runtime's own choice.
        """
        self._folder = folder
        self._threads = threads
        self._count = 0
        for path in folder.glob(f"{_PREFIX}*"):
            path.unlink()

    def open(self, model: ir.Model, name: str) -> Engine:
        """Open an engine for a graph, which stays unchanged.

        Args:
            model: Any graph of the standard's operators.
            name: Name for files and messages.

        Raises:
            EngineError: ONNX Runtime rejects the graph.
            MissingExtraError: ONNX Runtime is not installed.
        """
        try:
            from diffoundry.targets.onnxruntime.build.fusions import FuseMultiHeadAttention, SplitGroupNorm
            from diffoundry.targets.onnxruntime.build.target import save_beside
        except ImportError as error:
            raise MissingExtraError("calibration", "onnxruntime", "onnxruntime") from error
        copy = model.clone()
        rewrites = FuseMultiHeadAttention(), SplitGroupNorm(), common.RemoveUnusedNodesPass()
        ir.passes.Sequential(*rewrites)(copy)
        self._count += 1
        path = self._folder / f"{_PREFIX}{self._count}-{name}.onnx"
        save_beside(copy, path)
        return _Session(path, model, self._threads)


class _Session(Closeable):
    """One ONNX Runtime session; its files are removed when it is closed."""

    def __init__(self, path: Path, model: ir.Model, threads: int | None) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        if threads is not None:
            settings.intra_op_num_threads = threads
        self._path = path
        self.inputs = tensor_specs(model.graph.inputs)
        self.outputs = tensor_specs(model.graph.outputs)
        self._names = [spec.name for spec in self.outputs]
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise EngineError(
                f"calibration: ONNX Runtime {onnxruntime.__version__} cannot open {path.name}: {error}; "
                f"install the version that this diffoundry was tested with"
            ) from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        try:
            return dict(zip(self._names, self._session.run(self._names, dict(feeds)), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise EngineError(f"calibration: ONNX Runtime failed on {self._path.name}: {error}") from error

    def close(self) -> None:
        """Free the session and remove its files."""
        self._session = None
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink()
