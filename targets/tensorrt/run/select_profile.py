"""Selects the optimization profile of an engine for the given shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffoundry.runtime.errors import InputError

__all__ = ["EngineProfile", "choose_profile", "read_profiles"]

_Extent = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProfile:
    """One profile, as the engine has it: its number, its name in the manifest, input to min, opt and max shape."""

    index: int
    name: str
    shapes: Mapping[str, _Extent]

    @property
    def static(self) -> bool:
        """True if it takes one size only."""
        return all(smallest == largest for smallest, _, largest in self.shapes.values())

    @property
    def rows(self) -> int:
        """The largest first dimension that it takes."""
        return max((largest[0] for _, _, largest in self.shapes.values() if largest), default=1)

    def takes(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Return True if every input is within its bounds."""
        return all(_within(shapes[name], smallest, largest) for name, (smallest, _, largest) in self.shapes.items())

    def distance(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Return the distance of shapes from those that its kernels were chosen for, in elements."""
        return sum(
            abs(_elements(shapes[name]) - _elements(preferred)) for name, (_, preferred, _) in self.shapes.items()
        )


def read_profiles(engine: Any, inputs: Sequence[str], names: Sequence[str]) -> tuple[EngineProfile, ...]:
    """The profiles of an engine; names may be missing."""
    return tuple(
        EngineProfile(
            index=index,
            name=names[index] if index < len(names) else str(index),
            shapes={name: _extent(engine.get_tensor_profile_shape(name, index)) for name in inputs},
        )
        for index in range(engine.num_optimization_profiles)
    )


def choose_profile(
    profiles: Sequence[EngineProfile], shapes: Mapping[str, tuple[int, ...]], current: int | None
) -> EngineProfile:
    """Return the profile that takes the shapes and was built for the nearest ones; the current one on a tie.

    Raises:
        InputError: None takes them; the message lists what each takes.
    """
    fitting = [profile for profile in profiles if profile.takes(shapes)]
    if fitting:
        return min(fitting, key=lambda profile: (profile.distance(shapes), profile.index != current))
    got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    taken = "; ".join(f"{profile.name}: {_bounds(profile)}" for profile in profiles)
    raise InputError(
        f"engine: got {got}, expected shapes within one of its profiles ({taken}); "
        f"ask for another size or fewer images at once, or build with --buckets, --batch, --height and --width for it"
    )


def _within(shape: tuple[int, ...], smallest: tuple[int, ...], largest: tuple[int, ...]) -> bool:
    if len(shape) != len(smallest):
        return False
    return all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True))


def _bounds(profile: EngineProfile) -> str:
    return ", ".join(
        f"{name} {smallest}" + ("" if smallest == largest else f" to {largest}")
        for name, (smallest, _, largest) in profile.shapes.items()
    )


def _extent(shapes: Sequence[Any]) -> _Extent:
    smallest, preferred, largest = (tuple(int(size) for size in shape) for shape in shapes)
    return smallest, preferred, largest


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
