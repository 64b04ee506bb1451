"""Opens a plan after checks of version, GPU and file, each with its own error."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.errors import BundleError, EngineError
from diffoundry.runtime.formats.onnx_locations import check_graph_files
from diffoundry.runtime.install_hint import install_command
from diffoundry.targets.tensorrt.cuda import Gpu
from diffoundry.targets.tensorrt.failures import advice, clean
from diffoundry.targets.tensorrt.message_log import MessageLog, make_logger
from diffoundry.targets.tensorrt.sdk import Sdk

__all__ = ["Library", "load_plan", "open_library"]

_INVALID = {
    "VERSION_MISMATCH": "it was built with another version of the library",
    "UNSUPPORTED_CC": "it was not built for this GPU",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory",
    "MALFORMED_ENGINE": "the file is damaged",
    "CUDA_ERROR": "the GPU cannot be asked; look whether 'nvidia-smi' works",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """A loaded module, its SDK, and the log of this process."""

    trt: Any
    sdk: Sdk
    log: MessageLog

    def failure(self, what: str, hint: str) -> EngineError:
        """Return an error with the messages since the last one."""
        said = "; ".join(clean(self.log.take_errors())) or "without a word"
        return EngineError(f"{what}: {self.sdk.product} {self.trt.__version__} refused: {said}; {advice(said, hint)}")

    def rebuild(self, spec: EngineSpec | None) -> str:
        """Return a sentence on what to do about a plan that does not fit."""
        precision = f" --precision {spec.precision}" if spec else ""
        return f"build it again here with 'diffoundry build DIR --target {self.sdk.name}{precision} --overwrite'"


@cache  # the library keeps the first logger of a process for good
def open_library(sdk: Sdk) -> Library:
    """Load the Python module of an SDK.

    Raises:
        EngineError: It is not installed, or its libraries cannot be loaded.
    """
    try:
        trt = sdk.load()
    except ImportError as error:
        raise EngineError(
            f"{sdk.product} cannot be loaded: {error}; install it with: {install_command(sdk.name)}"
        ) from error
    log = MessageLog()
    log.logger = make_logger(trt, log)
    return Library(trt=trt, sdk=sdk, log=log)


def load_plan(library: Library, path: Path, spec: EngineSpec | None, gpu: Gpu) -> tuple[Any, Any]:
    """Return the runtime and the engine of a plan, with its weights. The runtime must live as long as the engine.

    Args:
        library: The loaded module.
        path: The plan.
        spec: Its manifest entry.
        gpu: Index of the GPU that runs it.

    Raises:
        EngineError: It does not fit the library, the GPU or the options; the message says what to do.
    """
    trt, sdk = library.trt, library.sdk
    options = spec.options if spec else {}
    if spec is not None:
        _check_version(library, path, spec)
    _check_gpu(sdk, path, options.get("compute_capabilities") or (), gpu)
    library.log.take_errors()
    runtime = trt.Runtime(library.log.logger)
    if options.get("version_compatible"):
        runtime.engine_host_code_allowed = True  # the plan brings the code of its own lean runtime
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        if sdk.validates:
            _check_validity(library, runtime, plan, path, spec)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise library.failure(f"engine {path}", library.rebuild(spec))
    if options.get("strip_plan"):
        _fill_in_weights(library, engine, _listed_graph(path, spec), spec)
    if options.get("weight_streaming") is not None:
        budget = int(options["weight_streaming"] * 1e9)
        engine.weight_streaming_budget_v2 = budget or engine.get_weight_streaming_automatic_budget()
    return runtime, engine


def _check_version(library: Library, path: Path, spec: EngineSpec) -> None:
    here, there = str(library.trt.__version__), spec.built_with.get(library.sdk.module)
    compatible = bool(spec.options.get("version_compatible"))
    later = compatible and there is not None and _numbers(here) >= _numbers(there)
    if there is not None and here != there and not later:
        newer = " or a later one" if compatible else ""
        raise EngineError(
            f"engine {path}: built with {library.sdk.product} {there}, got {here}, expected the same version{newer}"
            f"; install it, or {library.rebuild(spec)}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _check_gpu(sdk: Sdk, path: Path, built_for: Sequence[str], gpu: Gpu) -> None:
    if not sdk.runs_on(gpu.capability):
        raise EngineError(
            f"engine {path}: got the GPU {gpu.name} (sm{gpu.capability}), which {sdk.product} does not run on; "
            f"use another --target"
        )
    if built_for and f"sm{gpu.capability}" not in built_for:
        raise EngineError(
            f"engine {path}: got the GPU {gpu.name} (sm{gpu.capability}), expected one of {', '.join(built_for)}, "
            f"which it was built for; build it again with --compute-capabilities sm{gpu.capability}"
        )


def _check_validity(library: Library, runtime: Any, plan: mmap.mmap, path: Path, spec: EngineSpec | None) -> None:
    trt = library.trt
    validity, bits = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    if validity == trt.EngineValidity.INVALID:
        known = trt.EngineInvalidityDiagnostics.__members__
        reasons = [_INVALID[name] for name, bit in known.items() if int(bits) & int(bit) and name in _INVALID]
        raise library.failure(
            f"engine {path}", f"{' and '.join(reasons) or 'it does not fit'}; {library.rebuild(spec)}"
        )


def _listed_graph(path: Path, spec: EngineSpec | None) -> Path:
    """Return the graph with the weights of a plan, after a look at the files that it names.

    Raises:
        BundleError: The manifest does not list them.
    """
    graph = path.with_suffix(".onnx")
    if spec is not None:
        name = PurePosixPath(spec.files[0]).with_suffix(".onnx").as_posix()
        if name not in spec.files:
            raise BundleError(
                f"engine {path}: its weights, {graph.name}, are not listed in the manifest; do not trust this bundle"
            )
        if graph.is_file():  # the library has its own words for one that is missing
            try:
                check_graph_files(graph, name, spec.files)
            except ValueError as error:
                raise BundleError(f"engine {path}: {error}; the bundle is damaged, export it again") from error
    return graph


def _fill_in_weights(library: Library, engine: Any, graph: Path, spec: EngineSpec | None) -> None:
    """Give a plan without weights those of the graph that it was built from."""
    trt = library.trt
    refitter = trt.Refitter(engine, library.log.logger)
    parser = trt.OnnxParserRefitter(refitter, library.log.logger)
    if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
        raise library.failure(f"weights {graph}", library.rebuild(spec))
