"""Engines that record their calls as operations of a graph, so that a pipeline runs without computing anything."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffoundry.exporter.single_graph.graph_array import GraphArray, Trace
from diffoundry.exporter.single_graph.image_rows import IMAGES, one_row
from diffoundry.exporter.single_graph.operation import UnrecordedError
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.dims import parse_size, size_of
from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.roles import TEXT_ENCODER

__all__ = ["RecordingSession"]


class RecordingSession(EngineSession):
    """The engines of a bundle, of which only names, types and shapes are read.

    Tokens of the text encoders become inputs of the graph: rows that were seen while `learning` are the prompt's,
    others the negative prompt's.

    Attributes:
        trace: Records the calls.
        inputs_of_text: Name of an input of the graph to its array.
        learning: True while prompts without negative prompts are encoded.
    """

    def __init__(self, bundle: Bundle, *, precision: str) -> None:
        """Take the engines for ONNX Runtime.

        Args:
            bundle: The bundle.
            precision: Of the engines.
        """
        super().__init__(bundle, target="onnxruntime", precision=precision)
        self.trace = Trace()
        self.inputs_of_text: dict[str, GraphArray] = {}
        self.learning = False
        self._prompts: set[bytes] = set()

    def begin(self, trace: Trace, inputs: dict[str, GraphArray]) -> None:
        """Record into another trace, whose inputs of text are added to `inputs`."""
        self.trace, self.inputs_of_text = trace, inputs

    def spec(self, name: str) -> EngineSpec:
        """Return the manifest entry of a component's engine."""
        choice = self.choice(name)
        assert choice is not None, "a bundle that was just written has a manifest"
        return choice.spec

    def idle_inputs(self, name: str) -> frozenset[str]:  # noqa: ARG002
        """See `EngineSession.idle_inputs`: none, the graph feeds all inputs of each component."""
        return frozenset()

    def run(self, name: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Record a call; see `EngineSession.run`."""
        spec = self.spec(name)
        text = self.bundle.role(name) == TEXT_ENCODER
        given = self._tokens(name, feeds, spec) if text else dict(feeds)
        fitted = {one.name: _fit(given[one.name], one) for one in spec.inputs}
        rows = {one.shape[0] for one in spec.inputs if one.shape and isinstance(fitted[one.name], GraphArray)}
        for one in spec.inputs:
            array = fitted[one.name]
            if (
                not isinstance(array, GraphArray)
                and one.shape
                and isinstance(one.shape[0], str)
                and one.shape[0] in rows
            ):
                fitted[one.name] = self.trace.expand(one_row(array), len(array))
        sizes = _sizes(spec.inputs, fitted)
        outputs = {one.name: (_shape(one, sizes), one.dtype) for one in spec.outputs}
        results = self.trace.call(name, fitted, outputs)
        return {key: one.astype(np.float32) if one.dtype.kind == "f" else one for key, one in results.items()}

    def _tokens(self, name: str, feeds: Mapping[str, Any], spec: EngineSpec) -> dict[str, Any]:
        """Replace tokens and masks by inputs of the graph, a row for each image."""
        ids, suffix = feeds["input_ids"], name.removeprefix("text_encoder")
        types = {one.name: one.dtype for one in spec.inputs}
        if self.learning:
            self._prompts |= {row.tobytes() for row in ids}
        kinds = [row.tobytes() not in self._prompts for row in ids[::IMAGES]]  # each text is that of `IMAGES` rows
        if len(kinds) * IMAGES != len(ids):
            raise UnrecordedError("a part of the texts of a call")
        return {
            key: np.concatenate([self._input(f"{'negative_' * no}{key}{suffix}", array, types[key]) for no in kinds])
            for key, array in feeds.items()
        }

    def _input(self, name: str, array: Any, dtype: str) -> GraphArray:
        if isinstance(array, GraphArray) or array.ndim != 2:
            raise UnrecordedError(f"the text encoder's input {name!r}")
        if name not in self.inputs_of_text:
            self.inputs_of_text[name] = self.trace.array((IMAGES, array.shape[1]), dtype)
        return self.inputs_of_text[name]


def _fit(array: Any, spec: TensorSpec) -> Any:
    """Convert to the engine's type, as `EngineSession.run` does."""
    shaped = array.reshape(()) if not spec.shape and array.ndim else array
    return shaped.astype(spec.dtype)


def _sizes(specs: tuple[TensorSpec, ...], feeds: Mapping[str, Any]) -> dict[str, int]:
    """Return what the feeds say of the symbols in the shapes of inputs."""
    sizes: dict[str, int] = {}
    for spec in specs:
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True):
            if isinstance(dim, str):
                symbol, divisor, up = parse_size(dim)
                if not up:
                    sizes[symbol] = size * divisor
            elif dim != size:
                raise UnrecordedError(f"{size} rows of the input {spec.name!r}, whose engine takes {dim}")
    return sizes


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    shape = [size_of(dim, sizes) for dim in spec.shape]
    known = [size for size in shape if size is not None]
    if len(known) < len(shape):
        raise UnrecordedError(f"the shape {spec.shape} of the output {spec.name!r}")
    return known
