"""Checked outputs of networks: a graph of an untrusted bundle may return other names, types and shapes."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import EngineError

__all__ = ["Outputs", "only_output"]

FloatArray = npt.NDArray[np.float32]


class Outputs(dict[str, FloatArray]):
    """Name to array of the outputs of one call; a missing name is an `EngineError`.

    Attributes:
        component: Name of the component, for messages.
    """

    def __init__(self, outputs: Mapping[str, FloatArray], component: str) -> None:
        super().__init__(outputs)
        self.component = component

    def __missing__(self, name: str) -> FloatArray:
        raise EngineError(
            f"component {self.component!r}: got the outputs {', '.join(self) or 'none'}, expected one named {name!r}; "
            f"its graph is not of this network, export the bundle again"
        )

    def take(self, name: str, shape: Sequence[int | None]) -> FloatArray:
        """Return an output of floats with this shape.

        Args:
            name: Of the output.
            shape: Its sizes; None allows any.

        Raises:
            EngineError: It is missing, or of another type or shape.
        """
        array = self[name]
        fits = array.ndim == len(shape) and all(
            want in (None, got) for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype.kind != "f":
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise EngineError(
                f"component {self.component!r}, output {name!r}: got {array.dtype} {array.shape}, expected floats "
                f"({wanted}); its graph is not of this network, export the bundle again"
            )
        return array


def only_output(outputs: Mapping[str, FloatArray], component: str, shape: Sequence[int | None]) -> FloatArray:
    """Return the output of a network that has one; arguments as `Outputs.take`.

    Raises:
        EngineError: It has several or none, or the output is of another type or shape.
    """
    if len(outputs) != 1:
        raise EngineError(
            f"component {component!r}: got the outputs {', '.join(outputs) or 'none'}, expected exactly one; "
            f"its graph is not of this network, export the bundle again"
        )
    return Outputs(outputs, component).take(next(iter(outputs)), shape)
