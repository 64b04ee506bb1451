"""A compiled model with one infer request per thread that runs it."""

import queue
from collections.abc import Mapping, Sequence

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.bundle.symbolic_sizes import resolve
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.openvino.import_openvino import ov

__all__ = ["RequestPool"]


class RequestPool:
    """Runs feeds from several threads at once, each in a request of its own, made when it is first needed.

    Nothing is copied: requests read the caller's arrays, and write into fresh arrays that become the caller's.

    Attributes:
        model: OpenVINO's own object.
    """

    def __init__(
        self, model: ov.CompiledModel, outputs: Sequence[TensorSpec], weights: Mapping[str, ov.Node] | None = None
    ) -> None:
        """Make the first request, in which the plugin allocates its memory.

        Args:
            model: Compiled.
            outputs: Its outputs in order, with symbolic sizes.
            weights: Result of `feed_weights`: constants for further inputs, the same in every call.
        """
        self.model = model
        self._outputs = tuple(outputs)
        self._weights = weights or {}
        self._idle: queue.LifoQueue[ov.InferRequest] = queue.LifoQueue()
        self._idle.put(self.request())

    def request(self) -> ov.InferRequest:
        """Make a request whose further inputs are set."""
        request = self.model.create_infer_request()
        for name, constant in self._weights.items():
            request.set_tensor(name, constant.get_tensor_view())
        return request

    def run(self, feeds: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: An array for every input.
            sizes: Values of the symbolic sizes in these feeds.

        Raises:
            EngineError: OpenVINO failed; the message has its own words.
        """
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self.request()
        try:
            return self._run(request, feeds, sizes)
        except RuntimeError as error:
            shapes = {name: array.shape for name, array in feeds.items()}
            raise EngineError(f"OpenVINO {ov.__version__} failed on inputs of shape {shapes}: {error}") from error
        finally:
            self._idle.put(request)

    def _run(self, request: ov.InferRequest, feeds: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
        plain = {
            name: np.ascontiguousarray(array) for name, array in feeds.items()
        }  # kept: a Tensor holds no reference
        for name, array in plain.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        results: dict[str, Array] = {}
        for index, spec in enumerate(self._outputs):
            shape = resolve(spec.shape, sizes)
            if shape is not None:
                results[spec.name] = np.empty(shape, spec.dtype)
                request.set_output_tensor(index, ov.Tensor(results[spec.name], shared_memory=True))
        request.infer(share_outputs=True)
        for index, spec in enumerate(self._outputs):
            if spec.name not in results:  # its size shows only now, in memory of the request
                results[spec.name] = request.get_output_tensor(index).data.copy()
        return results
