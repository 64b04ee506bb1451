"""Runs a graph in pieces, one session after another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnxruntime as ort

from diffoundry.runtime.engines.cutting import WHOLE, piece_limit
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.formats.onnx_pieces import OnnxPieces
from diffoundry.runtime.formats.onnx_reading import GraphValue

__all__ = ["PieceSession", "Session", "open_session"]

_ONCE = 1.1
"""Memory of the weights of an open session in sizes of the weights: each is stored or in the kernels' layout."""

_INTEGERS = 1.5
"""The same for weights in integers, with the floats of the layer that runs.

Stable Diffusion 1.5's UNet in int8-weights took 1.3 times its integers beside the values of a call in pieces.
"""


class Session(Protocol):
    """The methods of `onnxruntime.InferenceSession` that engines use."""

    def get_inputs(self) -> Sequence[Any]:
        """Return the inputs of the graph, with name, type and shape."""

    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs of the graph, with name, type and shape."""

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return the outputs of these names, for an array for each input."""


def open_session(
    path: Path, settings: ort.SessionOptions, providers: Sequence[Any], memory: int | None, *, whole: bool = False
) -> Session:
    """Open a graph, in pieces where it would take too much memory.

    Args:
        path: The graph, whose files `check_graph_files` has accepted.
        settings: Of the session.
        providers: As in `onnxruntime.InferenceSession`.
        memory: Bytes that it may take, or None for any number.
        whole: True if it is known to fit as a whole. Freed memory then goes back to the system, as with pieces.
    """
    if memory is not None and whole:
        settings.enable_cpu_mem_arena = False
    elif memory is not None:
        graph = OnnxPieces(path)
        most = piece_limit(memory, graph.weights)
        if most is not None:
            return PieceSession(graph, settings, providers, path.parent, most)
    session: Session = ort.InferenceSession(str(path), settings, providers=providers)
    return session


class PieceSession:
    """Opens each piece of a graph, runs it and closes it, so that the weights of one piece are in memory at a time.

    A `Session`, which several threads may call at once.

    Attributes:
        pieces: The pieces, in the order in which they run.
    """

    def __init__(
        self, graph: OnnxPieces, settings: ort.SessionOptions, providers: Sequence[Any], folder: Path, most: int
    ) -> None:
        """Cut the graph. Nothing is opened yet.

        Args:
            graph: The whole graph.
            settings: Changed, so that freed memory goes back to the system, and external weights are found.
            providers: As in `onnxruntime.InferenceSession`.
            folder: Of its external weights.
            most: Bytes of weights that a piece has at most, as float32, where the graph can be cut so often.
        """
        settings.enable_cpu_mem_arena = False
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self._settings, self._providers, self._graph = settings, providers, graph
        self.pieces = tuple(graph.cut(most))

    @property
    def least_memory(self) -> int:
        """Bytes of the weights of the largest piece, while it is open."""
        return WHOLE * max(piece.weights for piece in self.pieces)

    @property
    def whole_memory(self) -> int:
        """Bytes that the weights of the whole graph take while it is open."""
        return int(_ONCE * self._graph.floats + _INTEGERS * self._graph.integers)

    def get_inputs(self) -> tuple[GraphValue, ...]:
        """See `Session.get_inputs`."""
        return self._graph.inputs

    def get_outputs(self) -> tuple[GraphValue, ...]:
        """See `Session.get_outputs`."""
        return self._graph.outputs

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """See `Session.run`."""
        values = dict(feeds)
        for piece in self.pieces:
            session = ort.InferenceSession(piece.model(), self._settings, providers=self._providers)
            made = session.run(piece.outputs, {new: values[name] for new, name in piece.feeds.items()})
            del session
            values.update(zip(piece.outputs, made, strict=True))
            for name in piece.last:
                del values[name]
        return [values[name] for name in names]
