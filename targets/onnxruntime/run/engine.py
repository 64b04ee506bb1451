"""Runs a lowered component in an ONNX Runtime session."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnxruntime as ort

from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.engines.idle_inputs import GraphSwitch
from diffoundry.runtime.engines.memory import free_at_once, trim
from diffoundry.runtime.engines.protocol import AdapterWeights, Array, Closeable, EngineOptions, closed_error
from diffoundry.runtime.errors import DiffoundryError, EngineError
from diffoundry.runtime.formats.onnx_locations import check_graph_files
from diffoundry.targets.onnxruntime.run.pieces import PieceSession, Session, open_session

__all__ = ["OnnxRuntimeEngine", "devices", "precisions"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}

_ERRORS_ONLY = 3

_WEIGHTS_ONLY = ("int8-weights", "int4-weights")


def devices() -> tuple[str, ...]:
    """List the devices that the installed ONNX Runtime offers."""
    available = ort.get_available_providers()
    return tuple(device for device, provider in _PROVIDERS.items() if provider in available)


def precisions(device: str) -> tuple[str, ...]:
    """List the precisions that a device computes in natively.

    fp16 is among the CPU's although it computes most of it in float32: only weights and edges are half there, so that
    nothing is emulated. bf16 has no kernels on the CPU.
    """
    common = ("fp32", "int8", "int8-weights", "int4-weights", "fp16")
    return (*common, "bf16") if device.partition(":")[0] == "cuda" else common


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """A session, its feeds beside the inputs of the engine, and whether its graph takes idle inputs."""

    session: Session
    adapters: Mapping[str, Array] = field(default_factory=dict)
    whole: bool = True


class OnnxRuntimeEngine(Closeable):
    """One ONNX Runtime session. `run` may be called from several threads at once: sessions allow it.

    Outputs are fresh arrays of the caller's. On the CPU they are made without a copy, so IO binding has nothing
    to save there.

    Attributes:
        inputs: See `Engine`.
        outputs: See `Engine`.
        idle_inputs: See `IdleEngine`.
        least_memory, whole_memory: See `LimitedEngine`.
    """

    def __init__(
        self, path: Path, spec: EngineSpec | None, options: EngineOptions, *, adapters: AdapterWeights | None = None
    ) -> None:
        """Open the session.

        Raises:
            EngineError: Unknown device, or ONNX Runtime refuses the file.
            BundleError: The graph reads files that the manifest does not list.
        """
        self._spec, self._options = spec, options
        self._base = path
        self._closed = False
        self._sessions: dict[Path, Session] = {}
        self._switch = GraphSwitch(spec)
        self._idle = path if spec is None else _idle_path(path, spec)
        self._loaded: AdapterWeights | None = None
        self.idle_inputs = self._switch.names
        session = self._session(self._plain_path if adapters is None else adapters.graph)
        own = {} if spec is None else {tensor.name: tensor for tensor in spec.inputs}
        found = {node.name: _spec(node) for node in session.get_inputs()}
        names = own or found
        self.inputs = tuple(found.get(name) or own[name] for name in names if name in found or name in self.idle_inputs)
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self._names = [tensor.name for tensor in self.outputs]
        self.set_adapters(adapters)

    @property
    def least_memory(self) -> int:
        """See `LimitedEngine`."""
        return max((one.least_memory for one in self._in_pieces), default=0)

    @property
    def whole_memory(self) -> int:
        """See `LimitedEngine`."""
        return sum(one.whole_memory for one in self._in_pieces)

    @property
    def _in_pieces(self) -> list[PieceSession]:
        return [one for one in self._sessions.values() if isinstance(one, PieceSession)]

    @property
    def _plain_path(self) -> Path:
        """The graph that runs without adapters."""
        return self._base if self._switch.whole else self._idle

    def _session(self, path: Path) -> Session:
        """Return the session of a graph, opened on first use."""
        if path not in self._sessions:
            session = self._open(path)
            if not self._options.keep_both:
                self._sessions.clear()
            self._sessions[path] = session
        return self._sessions[path]

    def _check(self, path: Path) -> None:
        """Refuse weights in files that the manifest does not list; a folder without a manifest has no list.

        Raises:
            BundleError: As said.
        """
        spec = self._spec
        if spec is not None:
            files = spec.files
            if path != self._base and spec.idle is not None and path == self._idle:
                files = spec.idle.files
            elif path != self._base and spec.adapters is not None:
                files = spec.adapters.files
            check_graph_files(path, files[0], files)

    def _open(self, path: Path) -> Session:
        settings = ort.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        if self._options.threads is not None:
            settings.intra_op_num_threads = self._options.threads
        try:
            self._check(path)
            return self._create(path, settings)
        except DiffoundryError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no public base class
            built_with = self._spec.built_with if self._spec else {}
            made = ", ".join(f"{name} {version}" for name, version in built_with.items())
            raise EngineError(
                f"engine {path}: ONNX Runtime {ort.__version__} cannot open it"
                + (f" (built with {made})" if made else "")
                + f": {error}. Export it again with this version, or install the one it was built with"
            ) from error

    def _create(self, path: Path, settings: ort.SessionOptions) -> Session:
        device = self._options.device or "cpu"
        memory = self._options.memory if device == "cpu" else None
        compressed = device == "cpu" and self._spec is not None and self._spec.precision in _WEIGHTS_ONLY
        if compressed:
            _hold_weights_once(settings)
        session = open_session(path, settings, [_provider(device)], memory, whole=self._options.whole)
        if compressed:
            trim()  # what the weights were converted from
        return session

    def set_adapters(self, adapters: AdapterWeights | None) -> None:
        """See `runtime.engines.protocol.AdaptableEngine.set_adapters`."""
        if self._closed:
            raise closed_error(self._base)
        with self._switch.lock:
            self._state, self._loaded = self._plain() if adapters is None else self._adapted(adapters), adapters

    def _plain(self) -> _State:
        return _State(session=self._session(self._plain_path), whole=self._switch.whole)

    def _adapted(self, adapters: AdapterWeights) -> _State:
        """Return the state with adapters, whose graph takes idle inputs."""
        session = self._session(adapters.graph)
        own = {spec.name for spec in self.inputs}
        extra = {
            node.name: adapters.arrays.get(node.name, _nothing(node.shape))
            for node in session.get_inputs()
            if node.name not in own
        }
        return _State(session=session, adapters=extra)

    def _reopen(self) -> None:
        """Free what is open without adapters, and open the graph that the switch asks for."""
        for path in (self._base, self._idle):
            self._sessions.pop(path, None)
        if self._loaded is None:
            if hasattr(self, "_state"):
                del self._state
            self._state = self._plain()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `runtime.engines.protocol.Engine.run`.

        Raises:
            EngineError: The engine is closed, or ONNX Runtime failed, with its own words (out of memory, a shape the
                graph cannot take).
        """
        if self._closed:
            raise closed_error(self._base)
        with self._switch.turned(feeds, self._reopen):
            state = self._state  # one for the whole call: another thread may adapt the engine meanwhile
        feeds = self._switch.filled(feeds) if state.whole else feeds
        try:
            results = state.session.run(self._names, {**feeds, **state.adapters})
        except Exception as error:  # onnxruntime's exceptions share no public base class
            shapes = {name: array.shape for name, array in feeds.items()}
            raise EngineError(f"ONNX Runtime {ort.__version__} failed on inputs of shape {shapes}: {error}") from error
        return dict(zip(self._names, results, strict=True))

    def close(self) -> None:
        """Free the sessions and their weights."""
        if not self._closed:
            self._closed = True
            self._sessions.clear()
            self.__dict__.pop("_state", None)


def _idle_path(path: Path, spec: EngineSpec) -> Path:
    """Return the graph without idle inputs of an engine whose first file is `path`."""
    if spec.idle is None:
        return path
    root = path.parents[len(PurePosixPath(spec.files[0]).parts) - 1]
    return root / spec.idle.files[0]


def _provider(device: str) -> str | tuple[str, dict[str, Any]]:
    name, _, index = device.partition(":")
    if name not in devices() or (index and not index.isdecimal()):
        hint = "; for CUDA install onnxruntime-gpu instead of onnxruntime" if name == "cuda" else ""
        raise EngineError(
            f"device: got {device!r}, expected one of {', '.join(devices())} (the installed ONNX Runtime){hint}"
        )
    return (_PROVIDERS[name], {"device_id": int(index)}) if index else _PROVIDERS[name]


def _hold_weights_once(settings: ort.SessionOptions) -> None:
    """Hold weights in integers once, and floats only while they are read.

    A packed weight is a second one: ONNX Runtime 1.31 keeps the one that it packed. Its arena would keep the floats of
    convolutions for the next call, and what a call took beside them. glibc would keep them, too.
    """
    free_at_once()
    settings.add_session_config_entry("session.disable_prepacking", "1")
    settings.enable_cpu_mem_arena = False


def _nothing(shape: list[int | str]) -> Array:
    """Zeros of rank 1, for an input whose layer has no adapter."""
    return np.zeros([size if isinstance(size, int) else 1 for size in shape], np.float32)


def _spec(node: Any) -> TensorSpec:
    shape = tuple(dim if isinstance(dim, int | str) else f"dim{i}" for i, dim in enumerate(node.shape))
    return TensorSpec(name=node.name, dtype=_DTYPES.get(node.type, node.type), shape=shape)
