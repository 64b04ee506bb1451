"""Runs a lowered component in OpenVINO."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.bundle.symbolic_sizes import resolve, solve
from diffoundry.runtime.engines.cutting import piece_limit
from diffoundry.runtime.engines.idle_inputs import GraphSwitch
from diffoundry.runtime.engines.memory import free_at_once
from diffoundry.runtime.engines.protocol import AdapterWeights, Array, Closeable, EngineOptions, closed_error
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.run.adapters import fit_ranks, read_adaptable
from diffoundry.targets.openvino.run.devices import core, execution_precision, vendor_name
from diffoundry.targets.openvino.run.fixed_sizes import NOTE, SmallModel, sizes_compiled
from diffoundry.targets.openvino.run.idle_inputs import read_without
from diffoundry.targets.openvino.run.load_transforms import LoadTransforms
from diffoundry.targets.openvino.run.model_files import read_listed
from diffoundry.targets.openvino.run.native_attention import holds_native_attention
from diffoundry.targets.openvino.run.pieces import PieceRequests, weight_bytes
from diffoundry.targets.openvino.run.request_pool import RequestPool
from diffoundry.targets.openvino.run.symbolic_sizes import default_sizes

__all__ = ["OpenVinoEngine"]

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


_Sizes = tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """One form of the model: its reader, its compiled models, and its feeds beside the inputs."""

    read: Callable[[], ov.Model]
    transform: LoadTransforms
    adapters: Mapping[str, Array] = field(default_factory=dict)
    compiled: dict[_Sizes, RequestPool | PieceRequests] = field(default_factory=dict)
    small: list[SmallModel] = field(default_factory=list)


class OpenVinoEngine(Closeable):
    """A component of a bundle on one device. `run` may be called from several threads at once.

    Without buckets the model is compiled once, for any size. With buckets it is compiled for each size when it is first
    asked for: static sizes run faster, but every compiled model has weights of its own in the device's layout. A small
    UNet on a CPU is compiled so without buckets too; see `SmallModel`.

    Attributes:
        inputs: See `Engine`.
        outputs: See `Engine`.
        idle_inputs: See `IdleEngine`.
        least_memory, whole_memory: See `LimitedEngine`.
        metadata: Type of floats, our own kernels where they are used, and sizes compiled for, for users.
    """

    def __init__(
        self, path: Path, spec: EngineSpec, options: EngineOptions, *, adapters: AdapterWeights | None = None
    ) -> None:
        """Read the model, and compile it unless it is compiled for each size.

        Raises:
            EngineError: The device is not there or lacks the precision, or OpenVINO refuses the file.
            BundleError: The model is of another form, or its weights are not listed in the manifest.
        """
        self._path, self._spec = path, spec
        self._device = vendor_name(options.device or "cpu")
        floats = execution_precision(spec.precision, options.device or "cpu")
        self._config = {"INFERENCE_PRECISION_HINT": _HINTS[floats], **_config(spec, options)}
        self._cache = options.cache_dir
        self._memory = options.memory if options.device in (None, "cpu") and not options.whole else None
        self._by_size = options.device in (None, "cpu") and options.memory is None
        self._switch = GraphSwitch(spec)
        self._transform = LoadTransforms.of(spec, options, floats)
        if self._transform.feeds:
            free_at_once()  # a layer's floats, which no other call needs
        if options.memory is not None and options.whole:  # Winograd's weights are four times as large
            self._transform = replace(self._transform, winograd=False)
        self.idle_inputs = self._switch.names
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self.metadata: dict[str, Any] = {"floats": floats}
        self._buckets = tuple((height, width) for height, width in spec.options.get("buckets", ()))
        self._lock = threading.Lock()
        self._keep_both = options.keep_both
        self._closed = False
        self._forms: dict[bool, _State] = {}  # the plain one and the adapted one, whichever were needed
        self._loaded: AdapterWeights | None = None
        self.set_adapters(adapters)

    def _open(self, state: _State) -> _State:
        """Read a form of the model, and compile it unless it is compiled for each size."""
        model = self._read(state)
        if self._buckets:
            return state
        count = sizes_compiled(self._spec, weight_bytes(model)) if self._by_size else 0
        if not count:
            state.compiled[()] = self._compile(state, model, None)
            return state
        try:
            notes, weights = state.transform(model)
        except (RuntimeError, ValueError) as error:
            raise self._refused(error) from error
        self.metadata |= {**notes, NOTE: f"each of the first {count} sizes"}

        def compile_for(copy: ov.Model, sizes: Mapping[str, int] | None) -> RequestPool:
            try:
                if sizes is not None:
                    state.transform.reshape(copy, sizes)
                return RequestPool(self._compiled(copy), self.outputs, weights)
            except (RuntimeError, ValueError) as error:
                raise self._refused(error) from error

        state.small.append(SmallModel(model, count, compile_for))
        return state

    def set_adapters(self, adapters: AdapterWeights | None) -> None:
        """See `runtime.engines.protocol.AdaptableEngine.set_adapters`.

        Compiled with branches for the layers that were adapted last only: another layer, or a larger rank of a
        convolution, means another compilation.
        """
        if self._closed:
            raise closed_error(self._path)
        with self._switch.lock:
            state = self._plain() if adapters is None else self._adapted(adapters)
            held = self._forms if self._keep_both else {}
            self._forms = {**held, adapters is not None: state}
            self._state, self._loaded = state, adapters

    def _reopen(self) -> None:
        """Free what is open, and open the graph that the switch asks for."""
        self._forms = {}
        if hasattr(self, "_state"):
            del self._state
        self.set_adapters(self._loaded)

    def _plain(self) -> _State:
        return self._forms.get(False) or self._open(self._new(partial(read_listed, self._path, self._spec)))

    def _new(self, read: Callable[[], ov.Model], adapters: Mapping[str, Array] | None = None) -> _State:
        """Describe a form of the open graph, which is read whole."""
        transform, idle = self._transform, self._spec.idle
        if idle is not None and not self._switch.whole:
            transform = replace(transform, spec=self._spec.without_idle_inputs)
            read = partial(read_without, read, idle.inputs)
        return _State(read=read, transform=transform, adapters=adapters or {})

    def _adapted(self, adapters: AdapterWeights) -> _State:
        last = self._forms.get(True)
        fed, compiled = fit_ranks(adapters.arrays, {} if last is None else last.adapters)
        if compiled and last is not None:
            return replace(last, adapters=fed)
        halves = self._spec.precision != "fp32"
        files = self._spec.adapters.files if self._spec.adapters is not None else ()
        read = partial(read_adaptable, adapters.graph, fed, halves=halves, files=files)
        return self._open(self._new(read, fed))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `runtime.engines.protocol.Engine.run`.

        With buckets, a batch that is a multiple of one already compiled runs in parts of that size.

        Raises:
            InputError: The feeds are of a size outside the buckets.
            EngineError: The engine is closed, or OpenVINO failed, with its own words.
        """
        if self._closed:
            raise closed_error(self._path)
        with self._switch.turned(feeds, self._reopen):
            state = self._state  # one for the whole call: another thread may adapt the engine meanwhile
            feeds = self._switch.filled(feeds) if self._switch.whole else feeds
        sizes = solve(self.inputs, {name: array.shape for name, array in feeds.items()})
        if not self._buckets:
            compiled = state.small[0].find(sizes) if state.small else state.compiled[()]
            return compiled.run({**feeds, **state.adapters}, sizes)
        rows, compiled = self._for_sizes(state, sizes)
        feeds = {**feeds, **state.adapters}
        if rows == sizes.get("batch", rows):
            return compiled.run(feeds, sizes)
        batched = {spec.name for spec in self.inputs if spec.shape[:1] == ("batch",)}
        parts = [
            compiled.run(
                {name: array[start : start + rows] if name in batched else array for name, array in feeds.items()},
                {**sizes, "batch": rows},
            )
            for start in range(0, sizes["batch"], rows)
        ]
        return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs}

    def warm_up(self, batch: int, sizes: Sequence[tuple[int, int]] = ()) -> None:
        """Compile for sizes and run once with zeros, so that the first image does not wait for it.

        Args:
            batch: Rows; a guided call has two for every image.
            sizes: (height, width) in pixels; the buckets when none are named.

        Raises:
            InputError: A size is outside the buckets.
            EngineError: OpenVINO failed.
        """
        for height, width in sizes or self._buckets:
            given = {**default_sizes(self._spec), "batch": batch, "height": height, "width": width}
            taken = [spec for spec in self.inputs if spec.name not in self.idle_inputs]
            self.run({spec.name: np.zeros(resolve(spec.shape, given) or (), spec.dtype) for spec in taken})

    @property
    def least_memory(self) -> int:
        """See `LimitedEngine`."""
        return max((one.least_memory for one in self._in_pieces), default=0)

    @property
    def whole_memory(self) -> int:
        """See `LimitedEngine`."""
        return sum(one.whole_memory for one in self._in_pieces)

    @property
    def _in_pieces(self) -> list[PieceRequests]:
        return [one for one in self._state.compiled.values() if isinstance(one, PieceRequests)]

    @property
    def compiled_models(self) -> tuple[ov.CompiledModel, ...]:
        """OpenVINO's own objects, one for each size that was compiled, none for one in pieces; to look at."""
        state = self._state
        opened = [*state.compiled.values(), *(one for small in state.small for one in small.compiled.values())]
        return tuple(one.model for one in opened if isinstance(one, RequestPool))

    def close(self) -> None:
        """Free the compiled models and their weights."""
        self._closed = True
        for state in self._forms.values():
            state.compiled.clear()
            state.small.clear()

    def _for_sizes(self, state: _State, sizes: Mapping[str, int]) -> tuple[int, RequestPool | PieceRequests]:
        """Return the rows per call and the compiled model for feeds of these sizes; compile it if there is none."""
        bucket = (sizes.get("height"), sizes.get("width"))
        if None not in bucket and bucket not in self._buckets:
            held = ", ".join(f"{height}x{width}" for height, width in self._buckets)
            raise InputError(
                f"height and width: got {bucket[0]}x{bucket[1]}, expected one of the engine's buckets {held}; "
                f"export with --buckets that name this size, or without them"
            )
        rows = sizes.get("batch", 1)
        with self._lock:
            for each in range(rows, 0, -1):
                key = tuple(sorted({**sizes, "batch": each}.items()))
                if rows % each == 0 and key in state.compiled:
                    return each, state.compiled[key]
            key = tuple(sorted({**sizes, "batch": rows}.items()))
            state.compiled[key] = compiled = self._compile(state, self._read(state), sizes)
            return rows, compiled

    def _read(self, state: _State) -> ov.Model:
        try:
            return state.read()
        except (RuntimeError, ValueError) as error:
            raise self._refused(error) from error

    def _compile(self, state: _State, model: ov.Model, sizes: Mapping[str, int] | None) -> RequestPool | PieceRequests:
        most = piece_limit(self._memory, weight_bytes(model))
        try:
            if most is None:
                notes, weights = state.transform(model, sizes)
                self.metadata |= notes
                return RequestPool(self._compiled(model), self.outputs, weights)
            in_pieces = replace(state.transform, winograd=False, feeds=False)  # a piece has its weights in memory
            self.metadata |= in_pieces(model, sizes)[0]
            folder, compressed = self._path.parent.resolve(), state.transform.feeds
            return PieceRequests(model, self.outputs, self._compiled, folder, most, compressed=compressed)
        except (RuntimeError, ValueError) as error:
            raise self._refused(error) from error

    def _compiled(self, model: ov.Model) -> ov.CompiledModel:
        return core().compile_model(model, self._device, {**self._config, **self._keeping(model)})

    def _keeping(self, model: ov.Model) -> dict[str, Any]:
        """OpenVINO's properties for keeping what is compiled: without the weights, to which it then refers.

        A model with an operation of ours is kept with them: OpenVINO 2026.4 compiles it again every time otherwise.
        """
        if self._cache is None:
            return {}
        if holds_native_attention(model):
            return {"CACHE_DIR": str(self._cache)}
        weights = {"CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": str(self._path.with_suffix(".bin"))}
        return {"CACHE_DIR": str(self._cache), **weights}

    def _refused(self, error: Exception) -> EngineError:
        made = ", ".join(f"{name} {version}" for name, version in self._spec.built_with.items())
        return EngineError(
            f"engine {self._path}: OpenVINO {ov.__version__} cannot open it on {self._device} (built with {made}): "
            f"{error}. Install the version it was built with, or run 'diffoundry build' with this one"
        )


def _config(spec: EngineSpec, options: EngineOptions) -> dict[str, Any]:
    """OpenVINO's properties for an engine, but for its floats and its cache."""
    config: dict[str, Any] = {}
    if spec.precision.startswith("int"):  # activations that nobody calibrated stay floats
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if options.threads is not None:
        config["INFERENCE_NUM_THREADS"] = options.threads
    if options.hint is not None:
        config["PERFORMANCE_HINT"] = options.hint.upper()
    return config
