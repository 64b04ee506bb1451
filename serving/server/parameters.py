"""The parameters of the images API: OpenAI's, and beside them arguments of a pipeline under diffusers' names."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from diffoundry.runtime.formats.config_values import shorten
from diffoundry.serving.server.errors import ApiError, bad_parameter

__all__ = ["Kind", "Parameter", "json_schema", "read_value"]


class Kind(StrEnum):
    """The JSON type of a value."""

    TEXT = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    IMAGE = "image"


_WORDS = {
    Kind.TEXT: "a text",
    Kind.INTEGER: "a whole number",
    Kind.NUMBER: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.IMAGE: "an image",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One parameter.

    Attributes:
        name: As clients type it.
        kind: Of a value, or of the entries of a list.
        meaning: A sentence for the OpenAPI document.
        several: "" where there is one value, "also" where a list is allowed, "only" where one is expected.
        choices: The texts that are accepted; none for any.
        low, high: Smallest and largest number, or length of a text.
        count: Most entries of a list.
    """

    name: str
    kind: Kind
    meaning: str
    several: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    count: int = 16

    def expected(self) -> str:
        """Return words for what is accepted."""
        if self.choices:
            listed = ", ".join(map(repr, self.choices))
            return f"one of {listed}" if len(self.choices) > 1 else listed
        if self.kind is Kind.TEXT and self.high is not None:
            return f"a text of {self.low or 0:.0f} to {self.high:.0f} characters"
        words = _WORDS[self.kind] + self._range()
        if self.several == "only":
            return f"a list, each entry {words}"
        return f"{words}, or a list" if self.several else words

    def _range(self) -> str:
        if self.low is not None and self.high is not None:
            return f" from {self.low} to {self.high}"
        return "" if self.low is None else f" of at least {self.low}"


def read_value(parameter: Parameter, value: Any, *, typed: bool) -> Any:
    """Check a value, and return it.

    Args:
        parameter: The parameter.
        value: JSON, or a text or a list of texts of a form.
        typed: True for JSON; False where a form has texts for numbers.

    Raises:
        ApiError: Something else.
    """
    if not typed:
        value = _from_form(parameter, value)
    if isinstance(value, list):
        if not parameter.several:
            raise bad_parameter(parameter.name, f"got a list of {len(value)}, expected {parameter.expected()}")
        if not 1 <= len(value) <= parameter.count:
            raise bad_parameter(parameter.name, f"got {len(value)} entries, expected 1 to {parameter.count}")
        return [_checked(parameter, one) for one in value]
    if parameter.several == "only":
        raise bad_parameter(parameter.name, f"got {_shown(value)}, expected {parameter.expected()}")
    return _checked(parameter, value)


def _checked(parameter: Parameter, value: Any) -> Any:
    """Return a single value.

    Raises:
        ApiError: It is of another type, or out of range.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = {
        Kind.TEXT: isinstance(value, str),
        Kind.INTEGER: whole or (isinstance(value, float) and value.is_integer()),
        Kind.NUMBER: whole or (isinstance(value, float) and math.isfinite(value)),
        Kind.BOOLEAN: isinstance(value, bool),
        Kind.IMAGE: True,
    }[parameter.kind]
    if not fits or not _in_range(parameter, value):
        raise bad_parameter(parameter.name, f"got {_shown(value)}, expected {parameter.expected()}")
    return int(value) if parameter.kind is Kind.INTEGER else value


def _in_range(parameter: Parameter, value: Any) -> bool:
    if parameter.choices:
        return value in parameter.choices
    if parameter.kind not in (Kind.TEXT, Kind.INTEGER, Kind.NUMBER):
        return True
    size = len(value) if isinstance(value, str) else value
    low, high = parameter.low, parameter.high
    return (low is None or size >= low) and (high is None or size <= high)


def _from_form(parameter: Parameter, value: Any) -> Any:
    """Return the value that a text of a form means."""
    if isinstance(value, list):
        return [_from_form(parameter, one) for one in value]
    if not isinstance(value, str) or parameter.kind in (Kind.TEXT, Kind.IMAGE):
        return value
    if parameter.several and value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    if parameter.kind is Kind.BOOLEAN:
        return {"true": True, "false": False}.get(value.lower(), value)
    if re.fullmatch(r"-?[0-9]{1,19}", value):
        return int(value)
    if re.fullmatch(r"-?[0-9]{0,19}\.?[0-9]{1,19}([eE][-+]?[0-9]{1,3})?", value):
        return float(value)
    return value


def _shown(value: Any) -> str:
    return "null" if value is None else shorten(value)


def json_schema(parameter: Parameter) -> dict[str, Any]:
    """Return the JSON schema of a parameter in a JSON body."""
    one: dict[str, Any] = {"type": "string" if parameter.kind is Kind.IMAGE else str(parameter.kind)}
    if parameter.choices:
        one["enum"] = list(parameter.choices)
    low, high = ("minLength", "maxLength") if parameter.kind is Kind.TEXT else ("minimum", "maximum")
    one |= {key: bound for key, bound in ((low, parameter.low), (high, parameter.high)) if bound is not None}
    several: dict[str, Any] = {"type": "array", "items": one, "minItems": 1, "maxItems": parameter.count}
    forms: Sequence[dict[str, Any]] = {"": [one], "also": [one, several], "only": [several]}[parameter.several]
    return {"anyOf": [*forms, {"type": "null"}], "description": parameter.meaning}


def unknown_parameter(name: str, message: str) -> ApiError:
    """Return the error of a parameter that an endpoint does not have."""
    return ApiError(400, f"{shorten(name)[1:-1]}: {message}", param=name[:100], code="unknown_parameter")
