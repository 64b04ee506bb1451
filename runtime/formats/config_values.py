"""Typed values of untrusted configs. Every reader checks type and range, and names file, field, value and expectation.

A missing field has the default of diffusers or transformers. Null is taken only where that default is None.
"""

import math
from collections.abc import Mapping
from typing import Any, overload

from diffoundry.runtime.errors import ConfigError

__all__ = [
    "MAX_CHANNELS",
    "MAX_SIDE",
    "Config",
    "flag",
    "integer",
    "integers",
    "number",
    "numbers",
    "refuse",
    "shorten",
]

MAX_CHANNELS = 2**20
"""Largest number of channels, features or layers in a config: far above any network."""

MAX_SIDE = 2**16
"""Largest side of an image or of latents in a config, in pixels."""

_LONGEST = 64
"""Most entries of a list of numbers, one for each level or channel."""

Config = Mapping[str, Any]


@overload
def integer(config: Config, key: str, default: int, *, subject: str, minimum: int = 1, maximum: int = ...) -> int: ...
@overload
def integer(
    config: Config, key: str, default: None, *, subject: str, minimum: int = 1, maximum: int = ...
) -> int | None: ...
def integer(
    config: Config, key: str, default: int | None, *, subject: str, minimum: int = 1, maximum: int = MAX_CHANNELS
) -> int | None:
    """Read a whole number.

    Args:
        config: The parsed config.
        key: Name of the field.
        default: Value of a missing field. None also allows null.
        subject: Name of the file in messages, such as "unet/config.json".
        minimum: Smallest value.
        maximum: Largest value.

    Raises:
        ConfigError: The value has another type, or is outside the range.
    """
    value = config.get(key, default)
    if value is None and default is None:
        return None
    if type(value) is not int or not minimum <= value <= maximum:
        raise refuse(subject, key, value, f"a whole number from {minimum} to {maximum}{_or_null(default)}")
    return value


@overload
def number(config: Config, key: str, default: float, *, subject: str, minimum: float, maximum: float) -> float: ...
@overload
def number(
    config: Config, key: str, default: None, *, subject: str, minimum: float, maximum: float
) -> float | None: ...
def number(
    config: Config, key: str, default: float | None, *, subject: str, minimum: float, maximum: float
) -> float | None:
    """Read a finite number; arguments as `integer`.

    Raises:
        ConfigError: The value has another type, is not finite, or is outside the range.
    """
    value = config.get(key, default)
    if value is None and default is None:
        return None
    if not _is_number(value) or not minimum <= value <= maximum:
        raise refuse(subject, key, value, f"a number from {minimum:g} to {maximum:g}{_or_null(default)}")
    return float(value)


def flag(config: Config, key: str, *, default: bool, subject: str) -> bool:
    """Read true or false. Null is the default, as transformers and diffusers read it.

    Raises:
        ConfigError: The value is neither.
    """
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise refuse(subject, key, value, "true or false")
    return value


def integers(
    config: Config, key: str, default: tuple[int, ...], *, subject: str, minimum: int = 1, maximum: int = MAX_CHANNELS
) -> tuple[int, ...]:
    """Read a list of at least one and at most 64 whole numbers; arguments as `integer`.

    Raises:
        ConfigError: The value is no such list, or a number is outside the range.
    """
    value = config.get(key, default)
    fits = isinstance(value, list | tuple) and 0 < len(value) <= _LONGEST
    if not fits or not all(type(one) is int and minimum <= one <= maximum for one in value):
        raise refuse(subject, key, value, f"a list of 1 to {_LONGEST} whole numbers from {minimum} to {maximum}")
    return tuple(value)


def numbers(config: Config, key: str, count: int, *, subject: str, zero: bool = True) -> tuple[float, ...] | None:
    """Read a list of `count` finite numbers; None for a missing field or null.

    Args:
        config: The parsed config.
        key: Name of the field.
        count: Length of the list.
        subject: Name of the file in messages.
        zero: True if a number may be 0.

    Raises:
        ConfigError: The value is no such list.
    """
    value = config.get(key)
    if value is None:
        return None
    fits = isinstance(value, list | tuple) and len(value) == count
    if not fits or not all(_is_number(one) and abs(one) < 1e30 and (zero or one) for one in value):
        raise refuse(subject, key, value, f"null or a list of {count} {'' if zero else 'non-zero '}numbers")
    return tuple(float(one) for one in value)


def refuse(subject: str, key: str, value: object, expected: str) -> ConfigError:
    """Return the error for a field of a config."""
    return ConfigError(
        f"{subject}: field {key!r}: got {shorten(value)}, expected {expected}; correct the config, or fetch it again"
    )


def shorten(value: object) -> str:
    """Format as JSON shows it for messages, at most 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = repr(value)
    except ValueError:  # Python formats no number of more than 4,300 digits
        return "a number of more than 4,300 digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_number(value: object) -> bool:
    """Return whether a value is a finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _or_null(default: object) -> str:
    return " or null" if default is None else ""
