"""One heading of options for some systems."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

__all__ = ["OptionGroup", "list_values"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionGroup:
    """Options under one heading of `generate --help`.

    Attributes:
        options: Decorators, made by `options_in(HEADING)`.
        settings: Names of the arguments of a pipeline that they set, which an image keeps.
        files: Argument of a pipeline to the option of its image file, or files where it may be repeated.
    """

    options: tuple[Callable[[Any], Any], ...]
    settings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def list_values(_context: click.Context, _parameter: click.Parameter, values: Sequence[Any]) -> list[Any]:
    """Return the values of a repeated option as a list, as JSON has it."""
    return list(values)
