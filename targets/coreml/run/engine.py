"""Runs the packages of a component with Core ML, on macOS. Written from coremltools' interface, never run yet."""

import contextlib
import hashlib
import importlib
import os
import platform
import shutil
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.engines.protocol import Array, Closeable, EngineOptions, closed_error
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.coreml.run.functions import PackageFunction, PackageFunctions, package_folders

__all__ = ["CoreMlEngine", "devices", "precisions"]

_UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE"}
"""Our word to the name of `coremltools.ComputeUnit`."""

_FLOATS = ("fp16", "fp32", "int8-weights", "int4-weights")

_PRECISIONS = {
    "all": (*_FLOATS, "int8"),
    "cpu": ("fp32", "fp16", "int8-weights", "int4-weights"),
    "gpu": _FLOATS,
    "ane": ("fp16", "int8", "int8-weights", "int4-weights"),
}
"""The Neural Engine has no float32, CPU and GPU have no products of int8; compressed weights run everywhere."""

_DTYPES = {65568: "float32", 65552: "float16", 131104: "int32"}
"""FeatureTypes.proto, ArrayFeatureType.ArrayDataType."""


def devices() -> tuple[str, ...]:
    """List the devices of this machine: none except on a Mac, the Neural Engine only with Apple's processors."""
    if str(sys.platform) != "darwin":  # str: type checkers would take one system for granted
        return ()
    return ("all", "cpu", "gpu", "ane") if platform.machine() == "arm64" else ("all", "cpu", "gpu")


def precisions(device: str) -> tuple[str, ...]:
    """List the precisions that a device computes in natively, fastest first."""
    return _PRECISIONS.get(device, ())


class CoreMlEngine(Closeable):
    """The packages of one component, opened with Core ML. Threads take turns: Core ML's models are not shared."""

    def __init__(self, path: Path, spec: EngineSpec | None, options: EngineOptions) -> None:
        """Open every function of every package.

        Raises:
            EngineError: No Mac, an unknown device, or Core ML refuses a package.
        """
        if str(sys.platform) != "darwin":  # str: type checkers would take one system for granted
            raise EngineError(
                f"engine {path}: got {platform.system()}, expected macOS: Core ML runs nowhere else; carry the bundle "
                f"to a Mac, or add an engine for this machine with 'diffoundry build' and --target onnxruntime"
            )
        device = options.device or "all"
        if device not in devices():
            raise EngineError(f"device: got {device!r}, expected one of {', '.join(devices())} (Core ML)")
        # Here and not at the top: coremltools imports torch where that is installed, and on other systems nothing of
        # it is needed.
        self._tools = importlib.import_module("coremltools")
        self._unit = getattr(self._tools.ComputeUnit, _UNITS[device])
        self._path, self._cache = path, options.cache_dir
        self._lock = threading.Lock()
        parts = [part for folder in package_folders(path, spec) for part in self._open(folder)]
        self.inputs = spec.inputs if spec is not None else parts[0].inputs
        self.outputs = spec.outputs if spec is not None else parts[-1].outputs
        self._functions: PackageFunctions | None = PackageFunctions(parts, self.outputs)

    def _open(self, folder: Path) -> list[PackageFunction]:
        """Open every function of a package.

        Raises:
            EngineError: Core ML refuses it, with its own words.
        """
        description = self._tools.utils.load_spec(str(folder)).description
        functions = list(description.functions) or [description]
        parts = []
        for function in functions:
            name = function.name if description.functions else None
            try:
                model = self._load(folder, name)
            except Exception as error:  # coremltools raises what its native part gives it
                raise EngineError(
                    f"engine {folder}: Core ML on macOS {platform.mac_ver()[0]} cannot open it: {error}; build it "
                    f"again for this system with 'diffoundry build' and --deployment-target"
                ) from error
            parts.append(
                PackageFunction(
                    label=folder.name if name is None else f"{folder.name} {name}",
                    inputs=tuple(_tensor(feature) for feature in function.input),
                    outputs=tuple(_tensor(feature) for feature in function.output),
                    call=model.predict,
                )
            )
        return parts

    def _load(self, folder: Path, function: str | None) -> Any:
        """Compile and load a function of a package, or load what an earlier run compiled."""
        compiled = None if self._cache is None else self._cache / f"{_digest(folder)}.mlmodelc"
        if compiled is not None and compiled.is_dir():
            return self._tools.models.CompiledMLModel(str(compiled), compute_units=self._unit, function_name=function)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # how coremltools says that Core ML refused the package
            model = self._tools.models.MLModel(str(folder), compute_units=self._unit, function_name=function)
        if compiled is not None:
            compiled.parent.mkdir(parents=True, exist_ok=True)
            partial = compiled.with_name(f"{compiled.name}.{os.getpid()}.partial")
            shutil.copytree(model.get_compiled_model_path(), partial)
            with contextlib.suppress(OSError):  # another process was first
                partial.rename(compiled)
            shutil.rmtree(partial, ignore_errors=True)
        return model

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `runtime.engines.protocol.Engine.run`.

        Raises:
            EngineError: The engine is closed, Core ML failed, with its own words, or the bundle has no package for
                these sizes.
        """
        with self._lock:
            if self._functions is None:
                raise closed_error(self._path)
            try:
                return self._functions.run(feeds)
            except EngineError:
                raise
            except Exception as error:  # coremltools raises what its native part gives it
                shapes = {name: array.shape for name, array in feeds.items()}
                raise EngineError(f"Core ML failed on inputs of shape {shapes}: {error}") from error

    def close(self) -> None:
        """Free the models."""
        with self._lock:
            self._functions = None


def _tensor(feature: Any) -> TensorSpec:
    """An input or output as the package describes it."""
    array = feature.type.multiArrayType
    return TensorSpec(name=feature.name, dtype=_DTYPES[array.dataType], shape=tuple(array.shape))


def _digest(folder: Path) -> str:
    """Return a digest of everything that a compiled package depends on: its content and the system."""
    sums = [sha256_of(file) for file in sorted(folder.rglob("*")) if file.is_file()]
    return hashlib.sha256("\n".join([platform.mac_ver()[0], platform.machine(), *sums]).encode()).hexdigest()[:32]
