"""Quantization units, their ranking, and the choice of layers that follows from a prefix of the ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from diffoundry.calibration.quality import decibels
from diffoundry.runtime.bundle.quantization import ComponentChoice

__all__ = ["Move", "QuantizationPlan", "Unit", "rank"]

_INT8_SHARE = (7 / 127) ** 2
"""Squared error of int8 weights over that of int4 weights with the same range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Nodes of one component that change their type together.

    Attributes:
        component: Component that owns the weights.
        nodes: Their names.
        saving: Amount saved by quantizing it: multiplications, bytes, or 1.
        intermediate: Amount saved by the intermediate type (int8 weights for an int4 precision), or None without one.
    """

    component: str
    nodes: tuple[str, ...]
    saving: float
    intermediate: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """Moves a unit back to a finer type.

    Attributes:
        unit: The unit.
        to: "int8" or "float".
        error_reduction: Squared error of the images removed by the move.
        cost: Saving lost by the move.
    """

    unit: Unit
    to: str
    error_reduction: float
    cost: float

    @property
    def ratio(self) -> float:
        """Error reduction per cost."""
        return self.error_reduction / max(self.cost, 1.0)


def rank(errors: Mapping[Unit, float]) -> list[Move]:
    """Rank the moves by error reduction per cost; moves of one unit go from coarse to fine.

    Errors of different units add up, as independent noises do. So the error reduction of a move does not depend on the
    moves before it.

    Args:
        errors: Unit to the mean squared difference of the images when it alone is quantized.
    """
    moves = []
    for unit, error in errors.items():
        if unit.intermediate is None:
            moves.append(Move(unit=unit, to="float", error_reduction=error, cost=unit.saving))
            continue
        first = Move(
            unit=unit, to="int8", error_reduction=error * (1 - _INT8_SHARE), cost=unit.saving - unit.intermediate
        )
        second = Move(unit=unit, to="float", error_reduction=error * _INT8_SHARE, cost=unit.intermediate)
        moves += [first, second]
    order = {unit: i for i, unit in enumerate(errors)}
    return sorted(moves, key=lambda move: (-move.ratio, order[move.unit], move.to == "float"))


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationPlan:
    """All units of a precision and their options. Moves turn it into choices.

    Attributes:
        units: In the order of the graphs.
        base: Component to its other options: observer, smoothing.
        errors: Unit to the mean squared difference of the images when it alone is quantized, where measured.
        floats: True if the units compute in fp16 or bf16, and in fp32 when moved, instead of being quantized.
    """

    units: Sequence[Unit]
    base: Mapping[str, ComponentChoice]
    errors: Mapping[Unit, float] = field(default_factory=dict)
    floats: bool = False

    def choices(self, moves: Sequence[Move] = ()) -> dict[str, ComponentChoice]:
        """Choices of all components after these moves."""
        moved: dict[Unit, str] = {}
        for move in moves:
            if moved.get(move.unit) != "float":
                moved[move.unit] = move.to
        return {name: self._choice(name, base, moved) for name, base in self.base.items()}

    def _choice(self, component: str, base: ComponentChoice, moved: Mapping[Unit, str]) -> ComponentChoice:
        mine = [unit for unit in self.units if unit.component == component]
        quantized = [node for unit in mine if moved.get(unit) != "float" for node in unit.nodes]
        fallback = [node for unit in mine if moved.get(unit) == "int8" for node in unit.nodes]
        kept = {
            node: round(decibels(self.errors.get(unit, 0.0)), 2)
            for unit in mine
            if moved.get(unit) == "float"
            for node in unit.nodes
        }
        if self.floats:
            return replace(base, kept={**base.kept, **kept}, float32=(*base.float32, *kept))
        return replace(base, quantized=tuple(quantized), kept=kept, fallback=tuple(fallback))
