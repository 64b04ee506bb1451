"""The JSON form against docs/reference/bench.schema.json, and the schema against the dataclasses."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import pytest

from diffoundry.runtime.bench import BenchRequest, bench
from diffoundry.runtime.bench.candidate import Load
from diffoundry.runtime.bench.machine import Machine
from diffoundry.runtime.bench.report import (
    SCHEMA_VERSION,
    BenchReport,
    CandidateReport,
    ComponentTime,
    ImageDistance,
    Measured,
    StepTime,
    Work,
)
from diffoundry.runtime.bench.spread import Ratio, Spread
from diffoundry.runtime.bundle.json_codec import to_json

_SCHEMA = json.loads((Path(__file__).parents[3] / "docs/reference/bench.schema.json").read_text(encoding="utf-8"))

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}

_WORDS = {"$schema", "$defs", "title", "description", "required"}


def check(schema, data, where="$"):
    """The keywords of JSON Schema that the schema uses; any other one is an error."""
    if "$ref" in schema:
        check(_SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], data, where)
    for keyword, value in schema.items():
        if keyword in _WORDS or keyword == "$ref":
            continue
        assert _KEYWORDS[keyword](value, data, where, schema), f"{where}: {keyword} {value!r} refuses {data!r}"


def _type(names, data, where, _schema):
    names = [names] if isinstance(names, str) else names
    return any(isinstance(data, _TYPES[n]) and (n == "boolean" or not isinstance(data, bool)) for n in names)


def _properties(properties, data, where, schema):
    missing = set(schema["required"]) - set(data)
    assert not missing, f"{where}: missing {missing}"
    for name, inner in properties.items():
        check(inner, data[name], f"{where}.{name}")
    return True


def _additional_properties(inner, data, where, schema):
    others = {name: value for name, value in data.items() if name not in schema.get("properties", {})}
    assert not others or inner is not False, f"{where}: unknown {set(others)}"
    for name, value in others.items():
        check(inner, value, f"{where}.{name}")
    return True


def _any_of(schemas, data, where, _schema):
    def fits(schema):
        try:
            check(schema, data, where)
        except AssertionError:
            return False
        return True

    return any(map(fits, schemas))


def _items(item, data, where, _schema):
    for index, value in enumerate(data):
        check(item, value, f"{where}[{index}]")
    return True


_KEYWORDS = {
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional_properties,
    "anyOf": _any_of,
    "items": _items,
    "const": lambda value, data, *_: data == value,
    "minItems": lambda value, data, *_: len(data) >= value,
    "minimum": lambda value, data, *_: data is None or data >= value,
    "maximum": lambda value, data, *_: data is None or data <= value,
    "exclusiveMinimum": lambda value, data, *_: data is None or data > value,
}


@pytest.fixture
def report(scripted_bundle):
    return json.loads(json.dumps(to_json(bench(scripted_bundle, BenchRequest(steps=2, repeats=2))), allow_nan=False))


def test_a_report_is_valid(report):
    check(_SCHEMA, report)
    assert report["schema_version"] == SCHEMA_VERSION == _SCHEMA["properties"]["schema_version"]["const"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 1),
        (("machine", "cores"), "2"),
        (("work", "extra"), 1),
        (("candidates",), []),
        (("candidates", 0, "measured", "image", "median"), None),
        (("candidates", 0, "measured", "step", "outside_share"), 1.5),
        (("candidates", 0, "measured", "components", "unet", "seconds", "p10"), "fast"),
        (("candidates", 0, "measured", "load", "components", "unet"), -1.0),
        (("candidates", 0, "measured", "peak_rss"), 1.5),
        (("candidates", 0, "reference"), 0),
    ],
)
def test_a_wrong_report_is_not(report, path, value):
    broken = copy.deepcopy(report)
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(AssertionError, match=re.escape(str(path[-1]))):
        check(_SCHEMA, broken)


def test_a_missing_field_is_not_valid(report):
    del report["candidates"][0]["measured"]["step"]
    with pytest.raises(AssertionError):
        check(_SCHEMA, report)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Machine, "machine"),
        (Work, "work"),
        (CandidateReport, "candidate"),
        (Measured, "measured"),
        (Load, "load"),
        (StepTime, "step"),
        (ComponentTime, "component"),
        (ImageDistance, "distance"),
        (Spread, "spread"),
        (Ratio, "ratio"),
    ],
)
def test_schema_lists_the_fields_of_the_dataclass_in_order(kind, name):
    schema = _SCHEMA["$defs"][name]
    assert list(schema["properties"]) == schema["required"] == [field.name for field in dataclasses.fields(kind)]
    assert all("description" in field or "$ref" in field for field in schema["properties"].values())


def test_schema_lists_the_fields_of_the_report():
    assert list(_SCHEMA["properties"]) == [field.name for field in dataclasses.fields(BenchReport)]
