"""Symbolic sizes such as "height/8": solved from the shapes of feeds, and put into shapes."""

from collections.abc import Iterable, Mapping

from diffoundry.runtime.specs import TensorSpec

__all__ = ["resolve", "solve"]

Shape = tuple[int, ...]


def solve(specs: Iterable[TensorSpec], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The values of the names in the shapes of `specs`: {"batch": 2, "height": 512} of ("batch", 4, "height/8").

    Args:
        specs: Inputs; a symbolic size is a name, or a name divided by a number.
        shapes: What they are given.
    """
    sizes: dict[str, int] = {}
    for spec in specs:
        for wanted, given in zip(spec.shape, shapes[spec.name], strict=True):
            if isinstance(wanted, str):
                name, divisor = _parts(wanted)
                sizes[name] = given * divisor
    return sizes


def resolve(shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> Shape | None:
    """A shape in numbers, or None when it has a name that is not in `sizes`."""
    found = []
    for size in shape:
        if isinstance(size, str):
            name, divisor = _parts(size)
            if name not in sizes or sizes[name] % divisor:
                return None
            found.append(sizes[name] // divisor)
        else:
            found.append(size)
    return tuple(found)


def _parts(size: str) -> tuple[str, int]:
    name, _, divisor = size.partition("/")
    return name, int(divisor) if divisor.isdecimal() else 1
