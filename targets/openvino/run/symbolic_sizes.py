"""Symbolic sizes such as "height/8": solved from the shapes of feeds, and evaluated in shapes."""

from collections.abc import Iterable, Mapping

from diffoundry.runtime.bundle.dims import parse_size, size_of
from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec

__all__ = ["default_sizes", "resolve", "solve"]

Shape = tuple[int, ...]

_DEFAULT_SIZES = {"batch": 1, "height": 512, "width": 512, "sequence": 77}
"""Sizes of Stable Diffusion 1, for engines whose manifest entry names none."""


def default_sizes(spec: EngineSpec) -> dict[str, int]:
    """Return the sizes of one image that the checkpoint was made for: pixels, tokens of a text."""
    return {**_DEFAULT_SIZES, **spec.options.get("default_sizes", {})}


def solve(specs: Iterable[TensorSpec], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The values of the names in the shapes of `specs`: {"batch": 2, "height": 512} of ("batch", 4, "height/8").

    Args:
        specs: Inputs; see `runtime.bundle.dims` for symbolic sizes, of which those that round up are skipped.
        shapes: Shapes to set.
    """
    sizes: dict[str, int] = {}
    for spec in specs:
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
