"""Symbolic sizes such as "height/8": solved from the shapes of feeds, and evaluated in shapes."""

from collections.abc import Iterable, Mapping

from diffoundry.runtime.bundle.dims import parse_size, size_of
from diffoundry.runtime.bundle.specs import TensorSpec

__all__ = ["resolve", "solve"]

Shape = tuple[int, ...]


def solve(specs: Iterable[TensorSpec], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The values of the names in the shapes of `specs`: {"batch": 2, "height": 512} of ("batch", 4, "height/8").

    Args:
        specs: Inputs; see `runtime.bundle.dims` for symbolic sizes, of which those that round up are skipped.
        shapes: Shapes to set; inputs without one say nothing.
    """
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name not in shapes:
            continue
        for wanted, given in zip(spec.shape, shapes[spec.name], strict=True):
            if isinstance(wanted, str):
                name, divisor, up = parse_size(wanted)
                if not up:
                    sizes[name] = given * divisor
    return sizes


def resolve(shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> Shape | None:
    """A shape in numbers, or None when it has a name that is not in `sizes`."""
    found = []
    for size in shape:
        number = size_of(size, sizes)
        if number is None:
            return None
        found.append(number)
    return tuple(found)
