"""Frozen dataclasses to JSON and back, strictly: an unknown, missing or mistyped field is an error with its path."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["RecordError", "from_json", "to_json"]

Record = TypeVar("Record")

_LARGEST = 2**1023
"""Bound of whole numbers that are floats."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""JSON may hold half of a pair; no file name and no terminal takes it."""


class RecordError(ValueError):
    """The data does not fit the record; the message starts with the path of the field."""


def to_json(record: Any) -> Any:
    """Convert a record to dicts, lists, strings, numbers, booleans and None; fields in the order of declaration."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {item.name: to_json(getattr(record, item.name)) for item in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {key: to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(value) for value in record]
    return record


def from_json(kind: type[Record], data: Any, where: str = "$") -> Record:
    """Build a `kind` from the result of `json.loads`.

    Args:
        kind: A dataclass whose fields are str, int, float, bool, None, Any, unions of these, tuple[T, ...],
            tuple[T, U], Mapping[str, T] or such dataclasses.
        data: The parsed JSON.
        where: Path of `data` in its file, for messages.

    Raises:
        RecordError: `data` does not fit. The message is "<path>: got ..., expected ...".
    """
    return typing.cast("Record", _read(kind, data, where))


def _read(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(typing.cast("type", kind), data, where)
    if origin in (types.UnionType, typing.Union):
        return _read_union(typing.get_args(kind), data, where)
    if origin is tuple:
        items, values = typing.get_args(kind), _expect(list, data, where)
        if items[-1] is not Ellipsis and len(values) != len(items):
            raise RecordError(f"{where}: got a list of {len(values)}, expected {len(items)} entries")
        kinds = [items[0]] * len(values) if items[-1] is Ellipsis else items
        return tuple(
            _read(item, value, f"{where}[{i}]") for i, (item, value) in enumerate(zip(kinds, values, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        item = typing.get_args(kind)[1]
        return {
            _expect(str, key, where): _read(item, value, f"{where}.{key}")
            for key, value in _expect(dict, data, where).items()
        }
    return _expect(kind, data, where)


def _read_dataclass(kind: type, data: Any, where: str) -> Any:
    data = _expect(dict, data, where)
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise RecordError(f"{where}: got the unknown field {unknown[0]!r}, expected only {', '.join(fields)}")
    values = {}
    for name, item in fields.items():
        if name in data:
            values[name] = _read(hints[name], data[name], f"{where}.{name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise RecordError(f"{where}: the field {name!r} is missing")
    return kind(**values)


def _read_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return _read(kind, data, where)
        except RecordError:
            continue
    raise RecordError(f"{where}: got {_name_of(data)}, expected {' or '.join(_kind_name(kind) for kind in kinds)}")


def _expect(kind: Any, data: Any, where: str) -> Any:
    exact = data is None if kind is type(None) else type(data) is kind or (kind is float and type(data) is int)
    if not exact:
        raise RecordError(f"{where}: got {_name_of(data)}, expected {_kind_name(kind)}")
    if kind is float and isinstance(data, int) and abs(data) >= _LARGEST:
        raise RecordError(f"{where}: got {_name_of(data)}, expected a number that a float holds")
    if kind is str and not data.isascii() and _SURROGATE.search(data):
        raise RecordError(f"{ascii(where)[1:-1]}: got half of a surrogate pair in {ascii(data)[:60]}, expected text")
    return data


def _kind_name(kind: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number"}
    return names.get(kind, {bool: "true or false", type(None): "null"}.get(kind, str(kind)))


def _name_of(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."
