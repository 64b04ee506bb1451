"""Calls of CUDA's runtime, each checked; NVIDIA's `cuda-python` is passed in or loaded here."""

import importlib
from dataclasses import dataclass
from typing import Any

from diffoundry.runtime.errors import EngineError

__all__ = ["Cuda", "Gpu", "find_cuda", "list_gpus"]

_MODULE = "cuda.bindings.runtime"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU: its number, its compute capability (89 for 8.9) and NVIDIA's name for it."""

    index: int
    capability: int
    name: str


class Cuda:
    """CUDA's runtime, whose functions return a status before their results: here a bad status is an error.

    Attributes:
        api: The module `cuda.bindings.runtime`, for its constants.
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function; its result, a tuple of several, or None.

        Raises:
            EngineError: CUDA's name and words for what went wrong.
        """
        status, *results = getattr(self.api, function)(*arguments)
        if status != self.api.cudaError_t.cudaSuccess:
            name, text = (
                getattr(self.api, describe)(status)[1].decode()
                for describe in ("cudaGetErrorName", "cudaGetErrorString")
            )
            raise EngineError(f"CUDA: {function} gave {name}: {text}; {_ADVICE.get(name, _RESTART)}")
        if not results:
            return None
        return results[0] if len(results) == 1 else tuple(results)


_RESTART = "run again, and when it stays, look whether 'nvidia-smi' works"
_ADVICE = {
    "cudaErrorMemoryAllocation": "close what else uses the GPU, or choose smaller images or fewer at once",
    "cudaErrorInsufficientDriver": "install NVIDIA's driver, or a newer one",
    "cudaErrorNoDevice": "this machine has no NVIDIA GPU",
}


def find_cuda() -> Cuda | None:
    """CUDA's runtime when `cuda-python` is installed, or None."""
    try:
        return Cuda(importlib.import_module(_MODULE))
    except ImportError:
        return None


def list_gpus(cuda: Cuda | None) -> tuple[Gpu, ...]:
    """The GPUs of this machine; none without a driver or without `cuda-python`."""
    if cuda is None:
        return ()
    try:
        count = cuda.call("cudaGetDeviceCount")
    except EngineError:  # no driver, or no GPU
        return ()
    return tuple(_describe(cuda, index) for index in range(count))


def _describe(cuda: Cuda, index: int) -> Gpu:
    properties = cuda.call("cudaGetDeviceProperties", index)
    name = bytes(properties.name).rstrip(b"\0").decode()
    return Gpu(index=index, capability=10 * properties.major + properties.minor, name=name)
