"""Makes the execution context of an engine, with the kernel cache of TensorRT for RTX."""

import hashlib
from pathlib import Path
from typing import Any

from diffoundry.runtime.errors import EngineError
from diffoundry.targets.tensorrt.run.open_plan import Library

__all__ = ["Context"]


class Context:
    """An execution context, with the file of compiled kernels for a library that compiles them on load.

    Attributes:
        api: The library's `IExecutionContext`.
        records: True if the library records and repeats CUDA graphs itself.
    """

    def __init__(self, library: Library, engine: Any, plan: Path, folder: Path | None, *, static: bool) -> None:
        """Make the context.

        Args:
            library: The loaded module.
            engine: The deserialized engine.
            plan: Its file, after which the cache is named.
            folder: Folder of compiled kernels, or None.
            static: True if every profile takes one size only and the work may be recorded.

        Raises:
            EngineError: There is not enough memory for it.
        """
        trt, sdk = library.trt, library.sdk
        self.records = static and sdk.runtime_cache
        self._file: Path | None = None
        self._cache: Any = None
        if sdk.runtime_cache:
            config = engine.create_runtime_config()
            if self.records:
                config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            if folder is not None:
                self._attach(config, plan, folder, str(trt.__version__))
            self.api = engine.create_execution_context(config)
        else:
            self.api = engine.create_execution_context()
        if self.api is None:
            raise library.failure(f"engine {plan}", "close what else uses the GPU, or build for smaller sizes")

    def _attach(self, config: Any, plan: Path, folder: Path, version: str) -> None:
        """Give the context the kernels of earlier runs; those that do not fit are refused, which does no harm."""
        self._cache = config.create_runtime_cache()
        owner = hashlib.sha256(str(plan.resolve()).encode()).hexdigest()[:16]
        self._file = folder / f"tensorrt-rtx-{version}-{plan.parent.name}-{owner}.kernels"
        if self._file.is_file():
            self._cache.deserialize(self._file.read_bytes())
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the kernels that were compiled.

        Raises:
            EngineError: The file cannot be written.
        """
        if self._file is None:
            return
        beside = self._file.with_name(f"{self._file.name}.new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(self._cache.serialize())
            beside.replace(self._file)
        except OSError as error:
            raise EngineError(f"{self._file}: cannot be written ({error.strerror}); choose another cache") from error
