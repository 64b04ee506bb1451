"""Records the work of one call as a CUDA graph, which later calls launch."""

from collections.abc import Callable
from typing import Any

from diffoundry.targets.tensorrt.cuda import Cuda

__all__ = ["CudaGraph"]


class CudaGraph:
    """A recorded sequence of copies and kernels on fixed addresses."""

    def __init__(self, cuda: Cuda, stream: Any, enqueue: Callable[[], None]) -> None:
        """Record what `enqueue` puts on the stream; nothing of it runs yet.

        Raises:
            EngineError: It cannot be recorded.
        """
        self._cuda = cuda
        self._stream = stream
        # Thread-local: other engines may allocate memory meanwhile in their own threads.
        cuda.call("cudaStreamBeginCapture", stream, cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            enqueue()
        finally:
            graph = cuda.call("cudaStreamEndCapture", stream)
        try:
            self._exec = cuda.call("cudaGraphInstantiate", graph, 0)
        finally:
            cuda.call("cudaGraphDestroy", graph)

    def launch(self) -> None:
        """Start it on its stream."""
        self._cuda.call("cudaGraphLaunch", self._exec, self._stream)

    def destroy(self) -> None:
        """Free it."""
        self._cuda.call("cudaGraphExecDestroy", self._exec)
