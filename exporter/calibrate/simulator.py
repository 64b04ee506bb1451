"""Runs graphs on this machine exactly as written, without an engine's own kernels for quantized operators."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from diffoundry.exporter.calibrate.split_graph import SplitEngine, split_graph
from diffoundry.runtime.engines.protocol import Array, Closeable, Engine
from diffoundry.runtime.errors import EngineError, MissingExtraError
from diffoundry.targets.base import tensor_specs

__all__ = ["WORKER_FILES", "Simulator"]

_PREFIX = "calibrating-"
"""Prefix of the files that exist while an engine is open."""

WORKER_FILES = f"{_PREFIX}worker-"
"""Prefix of those of processes beside others in the same folder."""

PART_BYTES = 128 << 20
"""Bytes of weights in a part of a large graph; a single weight may have more."""


class Simulator:
    """Opens graphs whose weights lie in one folder.

    ONNX Runtime computes every operator in float32 and rounds where the graph says so. The results do not depend on the
    machine's int8 kernels.
    """

    def __init__(
        self, folder: Path, threads: int | None = None, *, in_parts: bool = False, worker: str | None = None
    ) -> None:
        """Store the folder, and remove the leftovers of an interrupted run.

        Args:
            folder: Folder of the graphs' external data; graphs are written here while their engines are open.
            threads: Threads of one call, or None for ONNX Runtime's own choice.
            in_parts: True to hold the weights of one part of a graph at a time: each call opens one part after another.
            worker: Name of a process beside others in the same folder, whose graphs it leaves there.
        """
        self._folder = folder
        self._threads = threads
        self._in_parts = in_parts
        self._count = 0
        self._prefix = _PREFIX if worker is None else f"{WORKER_FILES}{worker}-"
        for path in folder.glob(f"{self._prefix}*"):
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

        def open_session(graph: ir.Model, label: str) -> Engine:
            self._count += 1
            path = self._folder / f"{self._prefix}{self._count}-{label}.onnx"
            save_beside(graph, path)
            return _Session(path, graph, self._threads, keep=not self._in_parts)

        if not self._in_parts:
            return open_session(copy, name)
        return SplitEngine(
            split_graph(copy, most_bytes=PART_BYTES),
            lambda graph, part: open_session(graph, f"{name}-{part}"),
            inputs=tensor_specs(model.graph.inputs),
            outputs=tensor_specs(model.graph.outputs),
        )


class _Session(Closeable):
    """One ONNX Runtime session; its files are removed when it is closed."""

    def __init__(self, path: Path, model: ir.Model, threads: int | None, *, keep: bool) -> None:
        """Open the session; or, if it is not kept, let each call open its own, which takes no memory in between."""
        self._path = path
        self._threads = threads
        self.inputs = tensor_specs(model.graph.inputs)
        self.outputs = tensor_specs(model.graph.outputs)
        self._names = [spec.name for spec in self.outputs]
        self._session = self._open(arena=True) if keep else None

    def _open(self, *, arena: bool) -> Any:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        settings.enable_cpu_mem_arena = arena
        if self._threads is not None:
            settings.intra_op_num_threads = self._threads
        try:
            return onnxruntime.InferenceSession(str(self._path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise EngineError(
                f"calibration: ONNX Runtime {onnxruntime.__version__} cannot open {self._path.name}: {error}; "
                f"install the version that this diffoundry was tested with"
            ) from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        session = self._session or self._open(arena=False)
        try:
            return dict(zip(self._names, session.run(self._names, dict(feeds)), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise EngineError(f"calibration: ONNX Runtime failed on {self._path.name}: {error}") from error

    def close(self) -> None:
        """Free the session and remove its files."""
        self._session = None
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink()
