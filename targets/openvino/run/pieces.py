"""Runs a model in pieces, one compiled model after another."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.cutting import WHOLE, cut_places, pack
from diffoundry.runtime.engines.memory import drop_mapped, trim
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.openvino.import_openvino import ops, ov

__all__ = ["PieceRequests", "weight_bytes"]

_LAYOUT = ("Concat", "Convert", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "VariadicSplit")
"""Operators that only arrange numbers. What they make may cross a cut. A product may be fused with its only reader."""


_OPEN = 2
"""Memory of the weights of an open model in sizes of the weights: in the mapped file, and in the kernels' layout.

Measured for Stable Diffusion 1.5's UNet without Winograd's form: 1.85 in fp32, 1.95 in int8-weights.
"""


def weight_bytes(model: ov.Model) -> int:
    """Return the bytes of the constants of a model, as float32."""
    return sum(_bytes(node) for node in model.get_ops() if node.get_type_name() == "Constant")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """A model over some of the nodes.

    Attributes:
        model: Inputs and outputs in the order of the names.
        inputs: Names of the values that it takes.
        outputs: Names of the values that it makes.
        last: Values that no later piece takes.
        weights: Bytes of its constants, as float32.
    """

    model: ov.Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last: tuple[str, ...]
    weights: int


class PieceRequests:
    """Compiles each piece of a model, runs it and frees it, so that the weights of one piece are in memory at a time.

    Used as `RequestPool`. The numbers are those of the whole model within rounding, because OpenVINO chooses its
    kernels and layouts for each model.

    Attributes:
        whole_memory: Bytes that the weights of the whole model take while it is open.
    """

    def __init__(
        self,
        model: ov.Model,
        outputs: Sequence[TensorSpec],
        compiled: Callable[[ov.Model], ov.CompiledModel],
        folder: Path,
        most: int,
        *,
        compressed: bool,
    ) -> None:
        """Cut the model. Nothing is compiled yet.

        Args:
            model: Transformed for this machine. Its weights are mapped.
            outputs: Its outputs in order.
            compiled: Compiles a model.
            folder: Of the file with the weights, without links.
            most: Bytes of weights that a piece has at most, as float32, where the model can be cut so often.
            compressed: True if weights in integers stay so while the whole model is open.
        """
        self._compiled, self._folder = compiled, folder
        self.whole_memory = _OPEN * (_stored_bytes(model) if compressed else weight_bytes(model))
        cutter = _Cutter(model)
        sources = [_name(result.input_value(0)) for result in model.get_results()]
        self._outputs = dict(zip([spec.name for spec in outputs], sources, strict=True))
        self.pieces = cutter.cut(most)

    @property
    def least_memory(self) -> int:
        """Bytes of the weights of the largest piece, while it is open."""
        return WHOLE * max(piece.weights for piece in self.pieces)

    def run(self, feeds: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:  # noqa: ARG002
        """Run once.

        Args:
            feeds: An array for every input.
            sizes: Not needed: pieces return arrays of the sizes that they make.

        Raises:
            EngineError: OpenVINO failed; the message has its own words.
        """
        values = dict(feeds)
        try:
            for piece in self.pieces:
                values.update(self._run(piece, values))
                for name in set(piece.last).difference(self._outputs.values()):
                    del values[name]
        except RuntimeError as error:
            shapes = {name: array.shape for name, array in feeds.items()}
            raise EngineError(f"OpenVINO {ov.__version__} failed on inputs of shape {shapes}: {error}") from error
        return {name: values[source] for name, source in self._outputs.items()}

    def _run(self, piece: _Piece, values: Mapping[str, Array]) -> dict[str, Array]:
        request = self._compiled(piece.model).create_infer_request()
        arrays = [np.ascontiguousarray(values[name]) for name in piece.inputs]
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
        request.infer(share_outputs=True)
        made = {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(piece.outputs)}
        del request
        drop_mapped(self._folder)
        trim()
        return made


class _Cutter:
    """Cuts a model, whose nodes become those of the pieces."""

    def __init__(self, model: ov.Model) -> None:
        self._nodes: list[ov.Node] = []  # those that depend on more than sizes of the inputs
        self._free: dict[str, ov.Node] = {}  # the others, which any piece may have, by name
        self._parameters = {node.get_name(): node for node in model.get_parameters()}
        for node in model.get_ordered_ops():
            kind, sources = node.get_type_name(), [value.get_node().get_name() for value in node.input_values()]
            sized = kind == "ShapeOf" and sources[0] in self._parameters
            if kind in ("Parameter", "Result"):
                continue
            if sized or all(name in self._free for name in sources):
                self._free[node.get_name()] = node
            else:
                self._nodes.append(node)
        self._place = {node.get_name(): place for place, node in enumerate(self._nodes)}

    def cut(self, most: int) -> tuple[_Piece, ...]:
        """Return the pieces in the order in which they run; see `PieceRequests`."""
        spans = [
            (place, readers[-1])
            for place, node in enumerate(self._nodes)
            for value in node.outputs()
            if node.get_type_name() not in _LAYOUT and len(readers := self._readers(value)) == 1
            if value.get_element_type().is_real() and self._nodes[readers[0]].get_type_name() != "Concat"
        ]
        count = len(self._nodes)
        places = [one for one in cut_places(count, spans) if self._nodes[one - 1].get_type_name() == "Add"]
        pieces: list[_Piece] = []
        for begin, end, weights in reversed(pack(places, count, self._weights, most)):  # the last is detached first
            pieces.insert(0, self._detach(begin, end, weights, {name for one in pieces for name in one.inputs}))
        return tuple(pieces)

    def _readers(self, value: ov.Output) -> list[int]:
        """Return the places of the nodes that read a value, in order; outputs of the model lie behind all."""
        names = [target.get_node().get_name() for target in value.get_target_inputs()]
        return sorted(self._place.get(name, len(self._nodes) - 1) for name in names)

    def _stored(self, nodes: Iterable[ov.Node]) -> dict[str, ov.Node]:
        """Return the free nodes that make inputs of some nodes."""
        found: dict[str, ov.Node] = {}
        pending = [*nodes]
        while pending:
            for value in pending.pop().input_values():
                node = self._free.get(value.get_node().get_name())
                if node is not None and node.get_name() not in found:
                    found[node.get_name()] = node
                    pending.append(node)
        return found

    def _weights(self, begin: int, end: int) -> dict[str, int]:
        stored = self._stored(self._nodes[begin:end])
        return {name: _bytes(node) for name, node in stored.items() if node.get_type_name() == "Constant"}

    def _detach(self, begin: int, end: int, weights: int, later: Collection[str]) -> _Piece:
        """Make a model of some nodes. Pieces behind them have been detached.

        Args:
            begin: Of the nodes.
            end: Of the nodes.
            weights: Bytes of their weights.
            later: Names of the values that pieces behind them take.
        """
        nodes = self._nodes[begin:end]
        given = [value for node in nodes for value in node.outputs() if _name(value) in later or _is_output(value)]
        inputs: dict[str, ov.Node] = {}
        for node in (*self._stored(nodes).values(), *nodes):
            for taken in node.inputs():
                value = taken.get_source_output()
                source = value.get_node().get_name()
                if source in self._parameters:
                    inputs[_name(value)] = self._parameters[source]
                elif self._place.get(source, begin) < begin:
                    name = _name(value)
                    if name not in inputs:
                        inputs[name] = ops.parameter(value.get_partial_shape(), value.get_element_type())
                    taken.replace_source_output(inputs[name].output(0))
        model = ov.Model([ops.result(value) for value in given], list(inputs.values()))
        return _Piece(
            model=model,
            inputs=tuple(inputs),
            outputs=tuple(map(_name, given)),
            last=tuple(name for name in inputs if name not in later),
            weights=weights,
        )


def _name(value: ov.Output) -> str:
    """Return the name of a value: of an input of the model its own, as it is fed."""
    node = value.get_node()
    if node.get_type_name() == "Parameter":
        return str(value.get_any_name())
    return f"{node.get_name()}:{value.get_index()}"


def _is_output(value: ov.Output) -> bool:
    return any(target.get_node().get_type_name() == "Result" for target in value.get_target_inputs())


def _stored_bytes(model: ov.Model) -> int:
    """Return the bytes of the constants of a model: integers of eight bits and less as they are, others as float32."""
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return sum(node.get_byte_size() if node.get_element_type().bitwidth <= 8 else _bytes(node) for node in constants)


def _bytes(node: ov.Node) -> int:
    """Return the bytes of a constant, as float32."""
    size: int = node.get_element_type().size
    numbers: int = math.prod(node.shape)
    return numbers * max(size, 4)
