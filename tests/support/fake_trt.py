"""The run-time half of TensorRT's Python module, over ONNX Runtime, for engines on a machine without a GPU.

It keeps what NVIDIA documents and the bindings show: calls answer False or None and log why, instead of raising; a
shape outside the profile is refused; outputs have -1 for sizes until every input has its shape; a new profile forgets
the shapes; `execute_async_v3` refuses while a shape or an address is missing, and only puts work on the stream. A plan
is a JSON file that `write_plan` makes of an ONNX graph. `test_api_names.py` compares every name here with the real
modules.
"""

import ctypes
import enum
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
_TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int32)": "INT32", "tensor(int64)": "INT64"}


_BITS = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16}


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT32, INT64, BOOL = range(6)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class CudaGraphStrategy(enum.Enum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class EngineValidity(enum.Enum):
    VALID, SUBOPTIMAL, INVALID = range(3)


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH, UNSUPPORTED_CC, OLD_CUDA_DRIVER, OLD_CUDA_RUNTIME = 1, 2, 4, 8
    INSUFFICIENT_GPU_MEMORY, MALFORMED_ENGINE, CUDA_ERROR = 16, 32, 64


class ILogger:
    def __init__(self):
        pass


def write_plan(path, graph, profiles, **more):
    """Write a plan. `profiles`: for each, input to (smallest, preferred, largest)."""
    path.write_text(json.dumps({"graph": str(graph), "profiles": profiles, **more}))
    return path


class Weights:
    """Numbers of the host's, by their address: nothing is copied."""

    def __init__(self, type, ptr, count):  # noqa: A002  # NVIDIA's name
        self._type, self._address, self._count = type, ptr, count


class FakeTrt:
    """The module; `cuda` is the fake that its kernels run on. Tests read `contexts`, the contexts that were made."""

    DataType = DataType
    TensorIOMode = TensorIOMode
    CudaGraphStrategy = CudaGraphStrategy
    EngineValidity = EngineValidity
    EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
    ILogger = ILogger
    Weights = Weights

    def __init__(self, cuda, version="1.7.1.116"):
        self.cuda, self.__version__ = cuda, version
        self.contexts = []
        self.invalid = 0
        self.refits = []
        self.refuses_refit = False

    def Runtime(self, logger):
        return Runtime(self, logger)

    def Refitter(self, engine, logger):
        return Refitter(engine, logger)

    def OnnxParserRefitter(self, refitter, logger):
        return OnnxParserRefitter(refitter, logger)


class Runtime:
    engine_header_size = 64

    def __init__(self, trt, logger):
        self._trt, self.logger = trt, logger
        self.engine_host_code_allowed = False

    def get_engine_validity(self, buffer):
        assert len(buffer) <= 64
        state = EngineValidity.INVALID if self._trt.invalid else EngineValidity.VALID
        return state, int(self._trt.invalid)

    def deserialize_cuda_engine(self, serialized_engine):
        plan = json.loads(bytes(serialized_engine))
        if plan.get("host_code") and not self.engine_host_code_allowed:
            self.logger.log(1, "IRuntime::deserializeCudaEngine: Error Code 3: API Usage Error (host code not allowed)")
            return None
        if plan.get("broken"):
            self.logger.log(1, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magicTagRead failed)")
            return None
        return ICudaEngine(self._trt, plan, self.logger)


class ICudaEngine:
    def __init__(self, trt, plan, logger):
        self._trt, self._plan, self._logger = trt, plan, logger
        self._model = None
        self._session = _session(plan["graph"])
        self._io = [*self._session.get_inputs(), *self._session.get_outputs()]
        self.filled = not plan.get("stripped")
        self.streamable_weights_size = plan.get("streamable", 0)
        self._budget = self.streamable_weights_size

    @property
    def num_io_tensors(self):
        return len(self._io)

    @property
    def num_optimization_profiles(self):
        return len(self._plan["profiles"])

    @property
    def weight_streaming_budget_v2(self):
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget):
        assert not self._trt.contexts, "the budget is set before the first context"
        self._budget = budget

    def get_weight_streaming_automatic_budget(self):
        return self.streamable_weights_size // 4

    def get_tensor_name(self, index):
        return self._io[index].name

    def get_tensor_mode(self, name):
        inputs = [node.name for node in self._session.get_inputs()]
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType[_TYPES[self._node(name).type]]

    def get_tensor_shape(self, name):
        return tuple(size if isinstance(size, int) else -1 for size in self._node(name).shape)

    def get_tensor_profile_shape(self, name, profile_index):
        shapes = self._plan["profiles"][profile_index]
        return [tuple(shape) for shape in shapes.get(name, [self.get_tensor_shape(name)] * 3)]

    def create_runtime_config(self):
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config=None):
        if self._plan.get("too_large"):
            self._logger.log(1, "ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory (Requested size ...)")
            return None
        self._trt.contexts.append(IExecutionContext(self, self._trt.cuda, self._logger, runtime_config))
        return self._trt.contexts[-1]

    def _node(self, name):
        return next(node for node in self._io if node.name == name)

    def _initializers(self):
        """Of the graph, in memory."""
        if self._model is None:
            self._model = ir.external_data.load_to_model(ir.load(self._plan["graph"]))
        return self._model.graph.initializers

    def _change(self, arrays):
        for name, array in arrays.items():
            value = self._initializers()[name]
            value.const_value = ir.Tensor(array, dtype=value.dtype, name=name)
        self._session = _session(ir.to_proto(self._model).SerializeToString())


def _session(graph):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class IRuntimeConfig:
    def __init__(self):
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self._cache = None

    def create_runtime_cache(self):
        return IRuntimeCache()

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True

    def get_runtime_cache(self):
        return self._cache


class IRuntimeCache:
    """Kernels are lines; a blob of another library is refused and changes nothing."""

    def __init__(self):
        self._kernels = []

    def deserialize(self, blob):
        if not blob.startswith(b"kernels\n"):
            return False
        self._kernels = blob.decode().splitlines()[1:]
        return True

    def serialize(self):
        return "\n".join(["kernels", *self._kernels]).encode()


class IExecutionContext:
    def __init__(self, engine, cuda, logger, config):
        self.engine, self._cuda, self._logger, self.config = engine, cuda, logger, config
        self.active_optimization_profile = 0
        self._shapes, self._addresses = {}, {}
        self.executions = 0

    def set_optimization_profile_async(self, profile_index, stream_handle):
        if profile_index >= self.engine.num_optimization_profiles:
            return self._refuse("setOptimizationProfileAsync", "no such profile")
        self.active_optimization_profile = profile_index
        self._shapes.clear()
        return True

    def set_input_shape(self, name, shape):
        if self.engine.get_tensor_mode(name) is not TensorIOMode.INPUT:
            return self._refuse("setInputShape", f"{name} is no input")
        low, _, high = self.engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            profile = self.active_optimization_profile
            return self._refuse("setInputShape", f"Static dimension mismatch or {shape} outside profile {profile}")
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        declared = self.engine.get_tensor_shape(name)
        if self.engine.get_tensor_mode(name) is TensorIOMode.INPUT:
            return self._shapes.get(name, declared)
        if self._missing_shapes():
            return declared
        return self._run({n: np.zeros(s, self._dtype(n)) for n, s in self._shapes.items()})[name].shape

    def set_tensor_address(self, name, memory):
        if memory % 256:
            return self._refuse("setTensorAddress", f"{memory:#x} is not aligned to 256 bytes")
        self._addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream_handle):
        if self._missing_shapes():
            return self._refuse("enqueueV3", f"shapes are missing: {self._missing_shapes()}")
        names = [node.name for node in self.engine._io]
        if any(name not in self._addresses for name in names):
            return self._refuse("enqueueV3", "addresses are missing")
        if not self.engine.filled:
            return self._refuse("enqueueV3", "weights are missing")
        place = self._cuda.streams[int(stream_handle)].device
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        self.executions += 1

        def kernel():
            feeds = {n: self._load(addresses[n], s, self._dtype(n), place) for n, s in shapes.items()}
            for name, array in self._run(feeds).items():
                memory = self._cuda.at(addresses[name], array.nbytes, place)
                memory.raw = np.ascontiguousarray(array).tobytes()
            if self.config is not None and self.config.get_runtime_cache() is not None:
                self.config.get_runtime_cache()._kernels.append("kernel")

        self._cuda.put(stream_handle, kernel)
        return True

    def _missing_shapes(self):
        inputs = [node.name for node in self.engine._session.get_inputs()]
        return [name for name in inputs if name not in self._shapes]

    def _dtype(self, name):
        return _NUMPY[self.engine.get_tensor_dtype(name).name]

    def _load(self, address, shape, dtype, place):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self._cuda.at(address, size, place).raw, dtype).reshape(shape)

    def _run(self, feeds):
        names = [node.name for node in self.engine._session.get_outputs()]
        return dict(zip(names, self.engine._session.run(names, feeds), strict=True))

    def _refuse(self, function, reason):
        self._logger.log(1, f"IExecutionContext::{function}: Error Code 3: API Usage Error ({reason})")
        return False


class Refitter:
    """Weights that a plan calls "combined" have to be given together, as those of fused layers."""

    def __init__(self, engine, logger):
        self._engine, self._logger, self._given = engine, logger, False
        self._weights = {}

    def set_named_weights(self, name, weights):
        value = self._engine._initializers().get(name)
        kind = weights._type.name
        known = value is not None and name in self._engine._plan.get("refittable", ())
        fits = known and weights._count == value.const_value.size
        if not fits or kind != {"FLOAT": "FLOAT", "FLOAT16": "HALF", "BFLOAT16": "BF16"}[value.dtype.name]:
            self._logger.log(1, f"IRefitter::setNamedWeights: Error Code 3: API Usage Error ({name} is refused)")
            return False
        self._weights[name] = weights
        return True

    def get_missing_weights(self):
        groups = self._engine._plan.get("combined", ())
        touched = [set(group) for group in groups if self._weights.keys() & set(group)]
        return sorted(set().union(*touched) - self._weights.keys())

    def refit_cuda_engine(self):
        if self._weights:
            if self.get_missing_weights() or self._engine._trt.refuses_refit:
                self._logger.log(1, "IRefitter::refitCudaEngine: Error Code 4: Internal Error (missing weights)")
                return False
            self._engine._trt.refits.append(sorted(self._weights))
            self._engine._change({name: self._read(name, weights) for name, weights in self._weights.items()})
            return True
        self._engine.filled = self._given
        return self._given

    def _read(self, name, weights):
        kind = np.dtype(_BITS[weights._type.name])
        block = (ctypes.c_char * (weights._count * kind.itemsize)).from_address(weights._address)
        value = self._engine._initializers()[name]
        array = np.frombuffer(bytes(block), kind).reshape(value.const_value.shape.numpy())
        return array.view(value.dtype.numpy())


class OnnxParserRefitter:
    def __init__(self, refitter, logger):
        self._refitter, self._logger = refitter, logger

    def refit_from_file(self, model):
        self._refitter._given = Path(model).is_file()
        if not self._refitter._given:
            self._logger.log(1, f"Failed to open file: {model}")
        return self._refitter._given


def as_library(trt, sdk):
    """Result of `loading.open_library` over the fake."""
    from diffoundry.targets.tensorrt.message_log import MessageLog, make_logger
    from diffoundry.targets.tensorrt.run.open_plan import Library

    log = MessageLog()
    log.logger = make_logger(trt, log)
    return Library(trt=trt, sdk=sdk, log=log)
