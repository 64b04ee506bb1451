"""The check of a scheduler's options: names, types and values."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.option_ranges import check_ranges
from diffoundry.runtime.schedulers.options import SchedulerOptions
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["build_options"]

_LARGEST = 1e30
"""Bound of numbers; float32 ends at 3e38."""

_LARGEST_INTEGER = 2**63

O = TypeVar("O", bound=SchedulerOptions)  # noqa: E741 - the options' own class, as T is for a type


def build_options(cls: type[O], owner: str, given: Mapping[str, Any]) -> O:
    """Make the options of a scheduler from keyword arguments, checked.

    Args:
        cls: the scheduler's `Options`.
        owner: the scheduler's class name, for messages.
        given: option name to value; NumPy arrays and scalars become lists and numbers.

    Raises:
        ConfigError: an unknown option, a value of the wrong type or outside the honoured ones, a missing option, a
            contradiction.
    """
    known = {field.name for field in fields(cls)}
    unknown = sorted(set(given) - known)
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ConfigError(f"{owner}: option '{unknown[0]}' is unknown.{hint} It takes {', '.join(sorted(known))}.")
    plain = {
        name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value for name, value in given.items()
    }
    translated = cls.translate(plain)
    hints = get_type_hints(cls)
    for name, value in sorted(translated.items()):
        if not _matches(value, hints[name]):
            raise ConfigError(f"{owner}: option '{name}' is {value!r}, expected {_describe(hints[name])}.")
    for field in fields(cls):
        if field.name not in translated and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(
                f"{owner}: option '{field.name}' is missing, expected {_describe(hints[field.name])}; it has no "
                "default."
            )
    options = cls(**translated)
    options.check(owner)
    check_ranges(options, owner)
    return options


def _matches(value: Any, hint: Any) -> bool:
    """Compare a JSON value with an annotation. An int is a float, a bool is no number."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_matches(value, part) for part in get_args(hint))
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if origin is Sequence:
        (item,) = get_args(hint)
        return isinstance(value, list | tuple) and all(_matches(part, item) for part in value)
    if hint is types.NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_sound(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_INTEGER
    return isinstance(value, hint)


def _is_sound(value: float) -> bool:
    """Return whether a number is in range; minus infinity is diffusers' word for no lower bound."""
    return abs(value) < _LARGEST or value == -math.inf


def _describe(hint: Any) -> str:
    """An annotation in words: "'linear' or 'scaled_linear'", "a number or null"."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType, Literal):
        parts = [_describe(part) if origin is not Literal else repr(part) for part in get_args(hint)]
        return " or ".join(parts) if len(parts) < 3 else ", ".join(parts[:-1]) + " or " + parts[-1]
    if origin is Sequence:
        return f"a list of {_describe(get_args(hint)[0])}"
    words = {types.NoneType: "null", float: "a number", int: "an integer", bool: "true or false", str: "a string"}
    return words.get(hint) or f"a {hint.__name__}"
