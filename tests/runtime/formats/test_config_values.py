"""Typed values of configs: what is taken is returned as it is, everything else is one sentence."""

import json

import pytest

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import flag, integer, integers, number, numbers
from diffoundry.runtime.formats.untrusted_json import load_json

SUBJECT = "unet/config.json"
ODD = ("4", [], {}, True, float("nan"), float("inf"), 10**400, -1, 2.5)


def test_what_fits_is_returned():
    assert integer({"a": 4}, "a", 1, subject=SUBJECT) == 4
    assert integer({}, "a", 1, subject=SUBJECT) == 1
    assert integer({"a": None}, "a", None, subject=SUBJECT) is None
    assert number({"a": 2}, "a", 1.5, subject=SUBJECT, minimum=0, maximum=3) == 2.0
    assert number({}, "a", None, subject=SUBJECT, minimum=0, maximum=3) is None
    assert integers({"a": [1, 2]}, "a", (), subject=SUBJECT) == (1, 2)
    assert numbers({"a": [0, -2.5]}, "a", 2, subject=SUBJECT) == (0.0, -2.5)
    assert numbers({"a": None}, "a", 2, subject=SUBJECT) is None
    assert flag({"a": None}, "a", default=True, subject=SUBJECT) is True


def test_everything_else_is_refused_by_name():
    readers = {
        "a whole number from 1 to 9": lambda c: integer(c, "a", 1, subject=SUBJECT, maximum=9),
        "a whole number from 1 to 8 or null": lambda c: integer(c, "a", None, subject=SUBJECT, maximum=8),
        "a list of 1 to 64 whole numbers": lambda c: integers(c, "a", (), subject=SUBJECT),
        "null or a list of 2 non-zero numbers": lambda c: numbers(c, "a", 2, subject=SUBJECT, zero=False),
    }
    for expected, read in readers.items():
        for value in (*ODD, [1, 0], [True, 1], [float("nan")] * 2):
            with pytest.raises(
                ConfigError, match=f"^unet/config.json: field 'a': got .*, expected {expected}.*; correct"
            ):
                read({"a": value})
    for value in ("4", [], {}, True, float("nan"), float("inf"), 10**400, -1):
        with pytest.raises(ConfigError, match="expected a number from 0 to 3; correct the config"):
            number({"a": value}, "a", 1.0, subject=SUBJECT, minimum=0, maximum=3)
    for value in (0, 1, "true", []):
        with pytest.raises(ConfigError, match="expected true or false"):
            flag({"a": value}, "a", default=True, subject=SUBJECT)


def test_null_is_refused_where_diffusers_has_a_number():
    with pytest.raises(ConfigError, match="got null, expected a whole number from 1 to"):
        integer({"a": None}, "a", 4, subject=SUBJECT)


def test_json_is_parsed_to_a_bounded_depth():
    assert load_json("[" * 64 + "]" * 64)
    for text in ("[" * 65 + "]" * 65, "[" * 100_000, '{"a":' * 65 + "1" + "}" * 65, "1" * 5000):
        with pytest.raises(ValueError, match=r"levels deep|Expecting|digits"):
            load_json(text)


def test_a_number_of_too_many_digits_is_refused_in_our_words():
    with pytest.raises(ValueError, match=r"^a number of more than 4,300 digits$"):
        load_json('{"seed": ' + "9" * 5000 + "}")


def test_half_of_a_surrogate_pair_is_refused():
    smile = chr(0x1F600)
    assert load_json(json.dumps([smile, "\\ud800"])) == [smile, "\\ud800"]  # a whole pair; and a backslash, u, d ...
    assert load_json(json.dumps(smile, ensure_ascii=False).encode()) == smile
    for half in ("\ud800", "a\udfffb", "\ud83d\ud83d\ude00"):
        for text in (json.dumps({half: 1}), json.dumps([half]).encode(), json.dumps(half)):
            with pytest.raises(ValueError, match="half of a surrogate pair"):
                load_json(text)
