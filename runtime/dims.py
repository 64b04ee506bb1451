"""Symbolic sizes in the shapes of inputs and outputs: "height", "height/8", and "ceil(height/16)", which rounds up."""

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Size", "parse_size", "size_of"]

_FORM = re.compile(r"(?P<up>ceil\()?(?P<symbol>[^/()]+)(?:/(?P<divisor>\d+))?(?(up)\))")


class Size(NamedTuple):
    """A symbol and what it is divided by.

    Attributes:
        symbol: "batch", "height", "sequence" ...
        divisor: 1 where the symbol stands alone.
        up: Whether the quotient is rounded up. Such a size follows from others and tells nothing of the symbol; one that
            is not rounded is asked for whole.
    """

    symbol: str
    divisor: int
    up: bool


def parse_size(text: str) -> Size:
    """Read a symbolic size; anything of another form is a symbol of its own."""
    found = _FORM.fullmatch(text)
    if found is None:
        return Size(text, 1, up=False)
    return Size(found["symbol"], int(found["divisor"] or 1), up=found["up"] is not None)


def size_of(dim: int | str, sizes: Mapping[str, int]) -> int | None:
    """The number that a dimension is, or None when its symbol is unknown or is not divided without a rest.

    Args:
        dim: A number or a symbolic size.
        sizes: Symbol to number.
    """
    if isinstance(dim, int):
        return dim
    symbol, divisor, up = parse_size(dim)
    if symbol not in sizes or (sizes[symbol] % divisor and not up):
        return None
    return -(-sizes[symbol] // divisor)
