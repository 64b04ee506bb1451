"""Every operator that the interpreter knows, under MIL's name, from the MIL operator reference."""

from collections.abc import Callable
from typing import Any

from coreml_interpreter.operators import constants, elementwise, indexing, normalization, products, shapes

__all__ = ["OPERATORS"]

OPERATORS: dict[str, Callable[..., Any]] = {
    name: function
    for family in (constants, elementwise, indexing, normalization, products, shapes)
    for name, function in family.OPERATORS.items()
}
