"""Compiles a small network for each size of its inputs."""

import threading
from collections.abc import Callable, Mapping

from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.run.request_pool import RequestPool

__all__ = ["NOTE", "SmallModel", "sizes_compiled"]

NOTE = "compiled for its size"
"""Key of an engine's metadata."""

_SMALL = 64 << 20
"""Bytes of weights. Where there are more, a call takes so long that free sizes cost it less than a tenth."""

_TOGETHER = 128 << 20
"""Bytes of weights of all compiled models of one network. In memory each takes about three times as many."""

_MOST = 8
"""Sizes. Where more are asked for, each call may have one of its own, and compiling takes longer than it saves."""

Compile = Callable[[ov.Model, Mapping[str, int] | None], RequestPool]
"""Compiles a model for these sizes, or for any; the model may be changed."""


def sizes_compiled(spec: EngineSpec, weights: int) -> int:
    """Return for how many sizes a network is compiled, each in a model of its own; 0: in one model for all of them.

    Each node of a free size costs a call some microseconds, and layers of free sizes are fused less. On an AMD Zen 2 a
    UNet of 3 million weights takes 0.71 of the time in a model of its size at 64 x 64 pixels, and 0.77 at 256 x 256.
    A network that is not called at every step is not worth it: compiling takes as long as a hundred calls. Transformers
    have not been measured.

    Args:
        spec: Its manifest entry.
        weights: Bytes of its weights, as float32.
    """
    in_every_step = {"sample", "timestep"} <= {tensor.name for tensor in spec.inputs}
    if not in_every_step or not 0 < weights <= _SMALL:
        return 0
    return min(_MOST, _TOGETHER // weights)


class SmallModel:
    """A model that is compiled for each of its first sizes, and once for any size after them.

    So an image does not depend on what was generated before it, but by rounding where there were many sizes.

    Attributes:
        compiled: Sizes, sorted, to the model compiled for them; () to that for any size.
    """

    def __init__(self, model: ov.Model, count: int, compile_for: Compile) -> None:
        """Nothing is compiled yet.

        Args:
            model: Transformed for this machine. Its weights are mapped.
            count: Sizes to compile it for.
            compile_for: Compiles a copy.
        """
        self.compiled: dict[tuple[tuple[str, int], ...], RequestPool] = {}
        self._model, self._count, self._compile_for = model, count, compile_for
        self._lock = threading.Lock()

    def find(self, sizes: Mapping[str, int]) -> RequestPool:
        """Return the compiled model for feeds of these sizes; compile it if there is none."""
        key = tuple(sorted(sizes.items()))
        with self._lock:
            if key not in self.compiled and len(self.compiled) >= self._count:
                key = ()
            if key not in self.compiled:
                self.compiled[key] = self._compile_for(self._model.clone(), sizes if key else None)
            return self.compiled[key]
