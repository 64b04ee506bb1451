"""Options of targets on the command line: the fields of a target's dataclass, `chunks` as `--chunks 2`."""

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any

from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["describe_options", "parse_target_options"]

_PLAIN: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "no value, or true or false",
}


def parse_target_options(
    arguments: Sequence[str], targets: Sequence[str], options: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Assign typed options to the targets that have them.

    Args:
        arguments: Words that no option of the command took: `--chunks 2`, `--device=cuda`, `--winograd false`.
        targets: Names of the targets of the export.
        options: Options of the command itself, such as "--model", to suggest one for a misspelled word.

    Returns:
        Target name to its options.

    Raises:
        ConfigError: No target has such an option, or its value cannot be read.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in targets}
    if not arguments:
        return given  # without importing a target
    fields = {name: _fields(name) for name in targets}
    for name, text in _pairs(arguments):
        takers = [target for target in targets if name in fields[target]]
        if not takers:
            raise ConfigError(_unknown(f"--{name.replace('_', '-')}", fields, options))
        for target in takers:
            given[target][name] = _read(name, text, fields[target][name])
    return given


def _unknown(typed: str, fields: dict[str, dict[str, Any]], options: Sequence[str]) -> str:
    """Sentence for an option that neither the command nor a target has; it suggests the nearest."""
    of_targets: dict[str, str] = {}
    for target, own in fields.items():
        for option in own:
            of_targets.setdefault(f"--{option.replace('_', '-')}", target)
    question = did_you_mean(typed, [*options, *of_targets])
    known = ", ".join(f"{option} ({target})" for option, target in of_targets.items()) or "none"
    expected = "" if question else f", expected one of {known}; see 'diffoundry targets NAME'"
    suggestion = question and f".{question}"
    return f"{typed}: no such option of the command or of {' or '.join(map(repr, fields))}{suggestion}{expected}"


def describe_options(target: str) -> dict[str, str]:
    """Option of a target, as typed, to its type and default."""
    kind = find_plugin(target).load("target")
    return {
        f"--{field.name.replace('_', '-')}": f"{_wanted(hint)}, default {_default_text(field)}"
        for field, hint in _declared(kind)
    }


def _fields(target: str) -> dict[str, Any]:
    return {field.name: hint for field, hint in _declared(find_plugin(target).load("target"))}


def _declared(kind: type) -> list[tuple["dataclasses.Field[Any]", Any]]:
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind) if field.init]


def _default_text(field: "dataclasses.Field[Any]") -> str:
    default = _default(field)
    return "none" if default is None else json.dumps(default)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    pairs: list[tuple[str, str | None]] = []
    for word in arguments:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            pairs.append((name.replace("-", "_"), value if equals else None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], word)
        else:
            raise ConfigError(
                f"argument {word!r}: got a word that belongs to no option; put a value with spaces in quotes"
            )
    return pairs


def _read(name: str, text: str | None, hint: Any) -> Any:
    """Read the value of an option.

    Raises:
        ConfigError: It cannot be read as `hint`.
    """
    try:
        return _convert(text, hint)
    except (KeyError, ValueError, TypeError) as error:
        got = "nothing" if text is None else repr(text)
        raise ConfigError(f"--{name.replace('_', '-')}: got {got}, expected {_wanted(hint)}") from error


def _convert(text: str | None, hint: Any) -> Any:
    """Convert text: plain types, "none" for None, tuples with commas, mappings as JSON."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        none = text is not None and text.lower() == "none"
        return None if none else _convert(text, next(part for part in parts if part is not type(None)))
    if hint is bool:
        return {None: True, "true": True, "false": False}[text if text is None else text.lower()]
    if origin is tuple:
        return tuple(_convert(piece.strip(), parts[0]) for piece in _given(text).split(","))
    if origin is not None:
        return dict(json.loads(_given(text)))
    return hint(_given(text))


def _given(text: str | None) -> str:
    if text is None:
        raise ValueError("no value")
    return text


def _wanted(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(part for part in parts if part is not type(None))
        return f"{_wanted(inner)}, or none"
    if origin is tuple:
        return f"{_wanted(parts[0])}, or several with commas between"
    if origin is not None:
        return "a JSON object"
    return _PLAIN.get(hint, str(hint))
