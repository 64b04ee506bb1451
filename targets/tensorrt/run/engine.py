"""Runs a plan on an NVIDIA GPU: one copy there, the engine, one copy back."""

import logging
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.engines.protocol import AdapterWeights, Array, Closeable, EngineOptions, closed_error
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.tensorrt.cuda import Cuda, Gpu, find_cuda, list_gpus
from diffoundry.targets.tensorrt.gpu_types import native_precisions
from diffoundry.targets.tensorrt.run.buffers import Arena
from diffoundry.targets.tensorrt.run.context import Context
from diffoundry.targets.tensorrt.run.cuda_graph import CudaGraph
from diffoundry.targets.tensorrt.run.open_plan import Library, load_plan, open_library
from diffoundry.targets.tensorrt.run.refitter import Refitter
from diffoundry.targets.tensorrt.run.select_profile import choose_profile, read_profiles
from diffoundry.targets.tensorrt.sdk import RTX, TENSORRT, Sdk

__all__ = [
    "TensorRTEngine",
    "open_rtx",
    "open_tensorrt",
    "rtx_devices",
    "rtx_precisions",
    "tensorrt_devices",
    "tensorrt_precisions",
]

logger = logging.getLogger(__name__)

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "INT8": "int8",
    "UINT8": "uint8",
}

_Shapes = dict[str, tuple[int, ...]]


class TensorRTEngine(Closeable):
    """One plan on one GPU. `run` may be called from several threads at once: the calls take turns.

    Attributes:
        inputs: Inputs of `run`.
        outputs: Outputs of `run`.
        rows: The most rows of a batch that one call takes.
    """

    def __init__(
        self, path: Path, spec: EngineSpec | None, options: EngineOptions, *, library: Library, cuda: Cuda, gpu: Gpu
    ) -> None:
        """Open the plan.

        Args:
            path: The plan.
            spec: Its manifest entry.
            options: `cache_dir` keeps the kernels that TensorRT for RTX compiles.
            library: The loaded module; tests pass another one.
            cuda: CUDA's runtime, likewise.
            gpu: Index of the GPU.

        Raises:
            EngineError: Plan, library and GPU do not fit, or memory is short.
        """
        built = spec.options if spec else {}
        self._path, self._cuda, self._gpu = path, cuda, gpu
        self._lock, self._closed = threading.Lock(), False
        cuda.call("cudaSetDevice", gpu.index)
        self._library = library
        self._runtime, self._engine = load_plan(library, path, spec, gpu)
        adapters = None if spec is None else spec.adapters
        self._refitter = Refitter(library, self._engine, None if adapters is None else adapters.files)
        self.inputs, self.outputs = self._tensors(spec)
        self._profiles = read_profiles(
            self._engine, [tensor.name for tensor in self.inputs], list(built.get("profiles", {}))
        )
        self.rows = max(profile.rows for profile in self._profiles)
        static = built.get("weight_streaming") is None and all(profile.static for profile in self._profiles)
        self._context = Context(library, self._engine, path, options.cache_dir, static=static)
        self._records = static and not self._context.records
        self._stream = cuda.call("cudaStreamCreate")
        self._arenas = Arena(cuda), Arena(cuda)
        self._shapes: _Shapes = {}
        self._profile: int | None = None
        self._graph: CudaGraph | None = None
        self._calls = 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `runtime.engines.protocol.Engine.run`.

        Raises:
            InputError: No profile takes these shapes.
            EngineError: The engine is closed, or TensorRT or CUDA failed, in their own words.
        """
        shapes = {tensor.name: tuple(feeds[tensor.name].shape) for tensor in self.inputs}
        with self._lock:
            if self._closed:
                raise closed_error(self._path)
            self._cuda.call("cudaSetDevice", self._gpu.index)  # a matter of each thread
            if shapes != self._shapes:
                self._prepare(shapes)
            given, made = self._arenas
            for name, array in feeds.items():
                np.copyto(given.view(name), array)
            self._start()
            self._cuda.call("cudaStreamSynchronize", self._stream)
            return {name: made.view(name).copy() for name in made.slots}

    def set_adapters(self, adapters: AdapterWeights | None) -> None:
        """See `AdaptableEngine.set_adapters`. The weights themselves change, so that no call costs more.

        Raises:
            EngineError: TensorRT refuses, in its own words.
        """
        with self._lock:
            if self._closed:
                raise closed_error(self._path)
            self._cuda.call("cudaSetDevice", self._gpu.index)
            self._cuda.call("cudaStreamSynchronize", self._stream)
            self._forget_graph()
            self._calls = 0
            self._refitter.change(adapters)

    def _prepare(self, shapes: _Shapes) -> None:
        """Choose the profile, set shapes and addresses in the context, allocate memory."""
        self._shapes = {}
        self._forget_graph()
        profile = choose_profile(self._profiles, shapes, self._profile)
        context = self._context.api
        if profile.index != self._profile:
            self._check(context.set_optimization_profile_async(profile.index, int(self._stream)), "choose a profile")
            self._profile = profile.index
        for name, shape in shapes.items():
            self._check(context.set_input_shape(name, shape), f"set the shape of {name!r} to {shape}")
        given, made = self._arenas
        given.arrange({tensor.name: (shapes[tensor.name], tensor.dtype) for tensor in self.inputs})
        made.arrange({tensor.name: (self._output_shape(tensor.name), tensor.dtype) for tensor in self.outputs})
        for arena in self._arenas:
            for name in arena.slots:
                self._check(context.set_tensor_address(name, arena.address(name)), f"set the address of {name!r}")
        self._shapes, self._calls = shapes, 0

    def _output_shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self._context.api.get_tensor_shape(name))
        self._check(min(shape, default=0) >= 0, f"give the shape of {name!r}, got {shape}")
        return shape

    def _start(self) -> None:
        """Put copies and engine on the stream: the first time for a shape as they are, then recorded, then repeated.

        The library settles on its kernels in the first call, which therefore is not recorded.
        """
        if self._records and self._calls == 1:
            try:
                self._graph = CudaGraph(self._cuda, self._stream, self._enqueue)
            except EngineError as error:
                logger.info("not recorded, so every call is enqueued: %s", error)
                self._records = False
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()
        self._calls += 1

    def _enqueue(self) -> None:
        given, made = self._arenas
        kinds = self._cuda.api.cudaMemcpyKind
        copy = partial(self._cuda.call, "cudaMemcpyAsync")
        copy(given.device, given.host, given.size, kinds.cudaMemcpyHostToDevice, self._stream)
        self._check(self._context.api.execute_async_v3(int(self._stream)), "run")
        copy(made.host, made.device, made.size, kinds.cudaMemcpyDeviceToHost, self._stream)

    def _check(self, fine: bool, what: str) -> None:  # TensorRT answers with truth values
        if not fine:
            raise self._library.failure(f"engine: cannot {what}", "run again with smaller sizes")

    def _tensors(self, spec: EngineSpec | None) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of the plan, with the manifest's names of dimensions."""
        modes = self._library.trt.TensorIOMode
        named = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)} if spec else {}
        found: dict[Any, list[TensorSpec]] = {modes.INPUT: [], modes.OUTPUT: []}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            found[self._engine.get_tensor_mode(name)].append(named.get(name) or self._describe(name))
        return tuple(found[modes.INPUT]), tuple(found[modes.OUTPUT])

    def _describe(self, name: str) -> TensorSpec:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(f"engine: tensor {name!r} is {kind}, expected one of {', '.join(_DTYPES)}; export again")
        sizes = tuple(int(size) for size in self._engine.get_tensor_shape(name))
        shape = tuple(size if size >= 0 else f"{name}.{axis}" for axis, size in enumerate(sizes))
        return TensorSpec(name=name, dtype=_DTYPES[kind], shape=shape)

    def _forget_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.destroy()

    def close(self) -> None:
        """Free the GPU; compiled kernels are kept where `cache_dir` says."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._cuda.call("cudaSetDevice", self._gpu.index)
            self._context.save()
            self._forget_graph()
            for arena in self._arenas:
                arena.free()
            self._cuda.call("cudaStreamDestroy", self._stream)
            del self._context, self._refitter, self._engine, self._runtime


def _devices(sdk: Sdk) -> tuple[str, ...]:
    """List the GPUs that an SDK runs on, "cuda" for the first."""
    gpus = [gpu for gpu in list_gpus(find_cuda()) if sdk.runs_on(gpu.capability)]
    return tuple("cuda" if gpu.index == 0 else f"cuda:{gpu.index}" for gpu in gpus)


def _find_gpu(device: str, cuda: Cuda | None) -> Gpu:
    """Return the GPU of a device name.

    Raises:
        EngineError: There is none of this name.
    """
    gpus = {gpu.index: gpu for gpu in list_gpus(cuda)}
    name, _, number = device.partition(":")
    index = int(number) if number.isdecimal() else 0 if not number else -1
    if name != "cuda" or index not in gpus:
        known = ", ".join(f"cuda:{index} ({gpu.name})" for index, gpu in gpus.items())
        raise EngineError(
            f"device: got {device!r}, expected {known or 'an NVIDIA GPU, of which this machine shows none'}; "
            f"cuda-python and NVIDIA's driver find them"
        )
    return gpus[index]


def _open(
    path: Path, spec: EngineSpec | None, options: EngineOptions, *, sdk: Sdk, adapters: AdapterWeights | None = None
) -> TensorRTEngine:
    library, cuda = open_library(sdk), find_cuda()
    gpu = _find_gpu(options.device or "cuda", cuda)
    assert cuda is not None, "there is no GPU without CUDA"
    engine = TensorRTEngine(path, spec, options, library=library, cuda=cuda, gpu=gpu)
    engine.set_adapters(adapters)
    return engine


def _precisions(sdk: Sdk, device: str) -> tuple[str, ...]:
    """List the precisions that a GPU computes in natively, fastest first; empty if there is no such GPU."""
    try:
        return native_precisions(_find_gpu(device, find_cuda()).capability, sdk.types)
    except EngineError:
        return ()


open_tensorrt = partial(_open, sdk=TENSORRT)
open_rtx = partial(_open, sdk=RTX)
tensorrt_devices = partial(_devices, TENSORRT)
rtx_devices = partial(_devices, RTX)
tensorrt_precisions = partial(_precisions, TENSORRT)
rtx_precisions = partial(_precisions, RTX)
