"""What can be quantized or not: units, how they are ranked, and the choice that a place in the ranking stands for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from diffoundry.calibration.quality import decibels
from diffoundry.runtime.bundle.quantization import ComponentChoice

__all__ = ["Move", "Plan", "Unit", "rank"]

_INT8_SHARE = (7 / 127) ** 2
"""Squared error of int8 weights over that of int4 weights with the same range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Nodes of one component that change their type together.

    Attributes:
        component: Component that owns the weights.
        nodes: Their names.
        worth: What is saved by changing it: multiplications, bytes, or 1.
        intermediate: What is saved by the type in between (int8 weights where int4 is asked for), or None when there
            is none.
    """

    component: str
    nodes: tuple[str, ...]
    worth: float
    intermediate: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A unit that goes back to a finer type.

    Attributes:
        unit: The unit.
        to: "int8" or "float".
        relief: Squared error of the images that goes with it.
        price: What is no longer saved.
    """

    unit: Unit
    to: str
    relief: float
    price: float

    @property
    def pays(self) -> float:
        """Relief for the price."""
        return self.relief / max(self.price, 1.0)


def rank(costs: Mapping[Unit, float]) -> list[Move]:
    """The moves, most relief for the price first; those of one unit from coarse to fine.

    Errors of different units add up, as those of independent noises do: so each move has its own relief, whatever was
    moved before.

    Args:
        costs: Unit to the mean squared difference of the images when it alone is quantized.
    """
    moves = []
    for unit, cost in costs.items():
        if unit.intermediate is None:
            moves.append(Move(unit=unit, to="float", relief=cost, price=unit.worth))
            continue
        first = Move(unit=unit, to="int8", relief=cost * (1 - _INT8_SHARE), price=unit.worth - unit.intermediate)
        second = Move(unit=unit, to="float", relief=cost * _INT8_SHARE, price=unit.intermediate)
        moves += [first, second]
    order = {unit: i for i, unit in enumerate(costs)}
    return sorted(moves, key=lambda move: (-move.pays, order[move.unit], move.to == "float"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All units of a precision and how they are quantized; moves make choices of it.

    Attributes:
        units: In the order of the graphs.
        base: Component to what else is chosen for it: observer, smoothing.
        costs: Unit to its measured cost, for those that were measured.
        floats: True if the units compute in fp16 or bf16, and in fp32 when moved, instead of being quantized.
    """

    units: Sequence[Unit]
    base: Mapping[str, ComponentChoice]
    costs: Mapping[Unit, float] = field(default_factory=dict)
    floats: bool = False

    def choices(self, moves: Sequence[Move] = ()) -> dict[str, ComponentChoice]:
        """The choice for every component when these moves are made."""
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
            node: round(decibels(self.costs.get(unit, 0.0)), 2)
            for unit in mine
            if moved.get(unit) == "float"
            for node in unit.nodes
        }
        if self.floats:
            return replace(base, kept={**base.kept, **kept}, float32=(*base.float32, *kept))
        return replace(base, quantized=tuple(quantized), kept=kept, fallback=tuple(fallback))
