"""Symbolic sizes in the shapes of inputs and outputs: "height", "height/8", and "(height+15)//16", which rounds up."""

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Size", "parse_size", "size_of"]

_EXACT = re.compile(r"(?P<symbol>\w+)(?:/(?P<divisor>\d+))?")
_UP = re.compile(r"\((?P<symbol>\w+)\+(?P<rest>\d+)\)//(?P<divisor>\d+)")


class Size(NamedTuple):
    """A symbol and its divisor.

    Attributes:
        symbol: "batch", "height", "sequence" ...
        divisor: 1 for the symbol itself.
        up: True if the quotient is rounded up. Such a size follows from others and does not determine the symbol. One
            that is not rounded is a whole number.
    """

    symbol: str
    divisor: int
    up: bool

    def __str__(self) -> str:
        """Return the text in a shape, which ONNX's tools can calculate with."""
        if self.up:
            return f"({self.symbol}+{self.divisor - 1})//{self.divisor}"
        return self.symbol if self.divisor == 1 else f"{self.symbol}/{self.divisor}"


def parse_size(text: str) -> Size:
    """Read a symbolic size; any other text is a symbol itself."""
    exact, up = _EXACT.fullmatch(text), _UP.fullmatch(text)
    if exact is not None and exact["divisor"] != "0":
        return Size(exact["symbol"], int(exact["divisor"] or 1), up=False)
    if up is not None and int(up["rest"]) + 1 == int(up["divisor"]):
        return Size(up["symbol"], int(up["divisor"]), up=True)
    return Size(text, 1, up=False)


def size_of(dim: int | str, sizes: Mapping[str, int]) -> int | None:
    """Return the number of a dimension, or None when its symbol is unknown or leaves a remainder.

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
