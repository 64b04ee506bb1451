"""State of a translation to MIL: the MIL variable of each ONNX value, and helpers for the operators."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import coremltools as ct
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.scratch_weights import in_scratch
from diffoundry.targets.coreml.build.weights import Dense, Scaled, Weight, emit, plain_constant
from diffoundry.targets.coreml.names import clean_name
from diffoundry.targets.weight_data import read_weight

__all__ = ["PALETTE_KEY", "Style", "Translation", "Var", "is_read", "shape_of"]

PALETTE_KEY = "diffoundry.palette"
"""Metadata of a node: bits of the palette of its weight."""

Var = Any
"""A value of the program that is being built; coremltools has no types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """Choices of a translation where MIL has several ways.

    Attributes:
        opset: The deployment target, `coremltools.target`: which operators there are.
        attention: "fused", "decomposed" or "split-einsum".
        neural_engine: True if tokens (B, S, C) are computed as (B, C, 1, S).
        palette_bits: Bits of the palettes that weights are stored with, 0 for none; a node that says its own under
            `PALETTE_KEY` goes its own way.
    """

    opset: Any
    attention: str
    neural_engine: bool = False
    palette_bits: int = 0


class Translation:
    """The values of one graph that have been translated.

    A value (B, S, C) may exist in the program as it is, as (B, C, 1, S), or both ways: each is made on first use.
    """

    def __init__(self, style: Style) -> None:
        self.style = style
        self._plain: dict[ir.Value, Var] = {}
        self._tokens: dict[ir.Value, Var] = {}
        self._scaled: dict[ir.Value, Scaled] = {}

    def set(self, value: ir.Value, var: Var) -> None:
        """Note what `value` became."""
        expected = shape_of(value)
        assert tuple(var.shape) == expected, f"{value.name}: translated to shape {var.shape}, declared {expected}"
        self._plain[value] = var

    def set_tokens(self, value: ir.Value, var: Var) -> None:
        """Note what `value`, (B, S, C), became in the form (B, C, 1, S)."""
        batch, tokens, channels = shape_of(value)
        assert tuple(var.shape) == (batch, channels, 1, tokens), f"{value.name}: {var.shape}, declared {value.shape}"
        self._tokens[value] = var

    def set_scaled(self, value: ir.Value, weight: Scaled) -> None:
        """Note that `value` is a constant in integers with scales; it is stored where a layer asks for it."""
        self._scaled[value] = weight

    def var(self, value: ir.Value | None) -> Var:
        """Return the MIL variable of `value`; constants are added to the program on first use."""
        assert value is not None, "an optional input that was not checked"
        if value not in self._plain:
            if value in self._tokens:
                squeezed = mb.squeeze(x=self._tokens[value], axes=[2])
                self._plain[value] = mb.transpose(x=squeezed, perm=[0, 2, 1])
            elif value in self._scaled:
                self._plain[value] = emit(self._scaled[value], self.style.opset)
            else:
                array = self.array(value)
                assert array is not None, f"{value.name} is read before it is made"
                self._plain[value] = mb.const(val=in_scratch(plain_constant(array)), name=clean_name(value.name or ""))
        return self._plain[value]

    def tokens(self, value: ir.Value) -> Var:
        """Return `value`, (B, S, C), in the layout (B, C, 1, S)."""
        if value not in self._tokens:
            maker = value.producer()
            swapped = (
                maker is not None and maker.op_type == "Transpose" and maker.attributes.get_ints("perm") == (0, 2, 1)
            )
            columns = (
                self.var(maker.inputs[0]) if maker and swapped else mb.transpose(x=self.var(value), perm=[0, 2, 1])
            )
            self._tokens[value] = mb.expand_dims(x=columns, axes=[2])
        return self._tokens[value]

    def in_tokens(self, value: ir.Value) -> bool:
        """Return True if the program already has `value` in the layout (B, C, 1, S)."""
        return value in self._tokens

    def array(self, value: ir.Value | None) -> npt.NDArray[Any] | None:
        """The content of a constant, however large, or None for what is computed."""
        if value is None or value.const_value is None:
            return None
        return read_weight(value.const_value)

    def weight(self, value: ir.Value, node: ir.Node) -> Weight | None:
        """The weight of the layer `node` as it shall be stored, or None for what is computed."""
        if value in self._scaled:
            return self._scaled[value]
        array = self.array(value)
        if array is None:
            return None
        bits = int(node.metadata_props.get(PALETTE_KEY, self.style.palette_bits))
        return Dense(array=plain_constant(array), bits=bits or None, name=clean_name(value.name or ""))

    def emit(self, weight: Weight) -> Var:
        """Add the weight of a layer to the program."""
        return emit(weight, self.style.opset)

    def integers(self, value: ir.Value | None) -> list[int]:
        """The content of a constant of whole numbers, such as axes."""
        array = self.array(value)
        assert array is not None, f"{value and value.name} is no constant"
        return [int(number) for number in array.reshape(-1)]

    @property
    def fused_attention(self) -> bool:
        """True if attention is one operator."""
        return self.style.attention == "fused" and bool(self.style.opset >= ct.target.iOS18)


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """The static shape of a value of a pinned graph."""
    assert value is not None, "an optional input that was not checked"
    assert value.shape is not None, f"{value.name} has no shape"
    return tuple(int(size) for size in value.shape.numpy())


def is_read(values: Iterable[ir.Value]) -> bool:
    """Return True if any of these values is read."""
    return any(value.uses() or value.is_graph_output() for value in values)
