"""Changes the weights of an opened plan for adapters, and back to those that it was built with."""

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy.typing as npt

from diffoundry.runtime.engines.protocol import AdapterWeights, Array
from diffoundry.runtime.errors import BundleError
from diffoundry.targets.tensorrt.base_weights import BaseWeight, adapted_weight, read_base_weight, read_refit_file
from diffoundry.targets.tensorrt.run.open_plan import Library

__all__ = ["Refitter"]

_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


class Refitter:
    """The weights of one plan. Nothing may run in it while they change."""

    def __init__(self, library: Library, engine: Any, files: Collection[str] | None = None) -> None:
        """Nothing is changed yet.

        Args:
            library: The loaded module.
            engine: The library's `ICudaEngine`, built with refittable weights.
            files: Files of the manifest that the weights may be in; None without a manifest.
        """
        self._library, self._engine = library, engine
        self._names = None if files is None else {PurePosixPath(file).name for file in files}
        self._file: Path | None = None
        self._changed: Collection[str] = ()

    def change(self, adapters: AdapterWeights | None) -> None:
        """Give the plan new weights where adapters are, and its own bytes where some were before.

        Raises:
            BundleError: The files of the weights are damaged.
            EngineError: The library refuses; some weights may have changed, and the next call changes them all again.
        """
        if adapters is not None:
            self._file = adapters.graph
        if self._file is None:
            return
        weights = read_refit_file(self._file)
        self._check(weights)
        arrays = {} if adapters is None else adapters.arrays
        wanted = {name for name, weight in weights.items() if f"{weight.layer}.lora_A" in arrays}
        names, self._changed = wanted.union(self._changed), wanted.union(self._changed)
        self._refit(names, weights, arrays)
        self._changed = wanted

    def _check(self, weights: Mapping[str, BaseWeight]) -> None:
        """Refuse weights in files that the manifest does not list.

        Raises:
            BundleError: As said.
        """
        for name, weight in weights.items():
            if self._names is not None and weight.file not in self._names:
                raise BundleError(
                    f"{self._file}: weight {name!r} is in {weight.file!r}, which the manifest does not list for it; "
                    f"do not trust this bundle"
                )

    def _refit(self, names: Collection[str], weights: Mapping[str, BaseWeight], arrays: Mapping[str, Array]) -> None:
        trt, library = self._library.trt, self._library
        assert self._file is not None
        library.log.take_errors()
        refitter = trt.Refitter(self._engine, library.log.logger)
        given: dict[str, npt.NDArray[Any]] = {}  # kept: the library only holds their addresses
        waiting = sorted(names)
        while waiting:
            for name in waiting:
                weight = weights[name]
                array = read_base_weight(self._file.parent, weight)
                if f"{weight.layer}.lora_A" in arrays:
                    array = adapted_weight(array, weight, arrays)
                given[name] = array
                kind = trt.DataType.__members__[_TYPES[weight.dtype]]
                if not refitter.set_named_weights(name, trt.Weights(kind, array.ctypes.data, array.size)):
                    raise library.failure(f"weight {name!r}", "build the engine again with --refit")
            # weights that the library has combined with the new ones have to be given again
            waiting = sorted(name for name in refitter.get_missing_weights() if name in weights and name not in given)
        if given and not refitter.refit_cuda_engine():
            raise library.failure(f"{len(given)} weights", "build the engine again with --refit")
