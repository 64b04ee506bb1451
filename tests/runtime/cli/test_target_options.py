"""The targets' own options as they are typed: types, errors, and which target takes which."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import click
import pytest

from diffoundry.exporter.cli.words import first_word
from diffoundry.runtime.cli import target_options
from diffoundry.runtime.cli.target_options import describe_options, parse_target_options
from diffoundry.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class _Paper:
    chunks: int = 1
    layout: str = "plain"
    ratio: float = 0.5
    refit: bool = False
    capabilities: tuple[str, ...] = ("sm89",)
    sizes: tuple[int, ...] = ()
    limit: int | None = None
    bits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Stone:
    chunks: int = 1


@pytest.fixture(autouse=True)
def two_targets(monkeypatch):
    class Plugin:
        def __init__(self, kind):
            self.kind = kind

        def load(self, _part):
            return self.kind

    kinds = {"paper": _Paper, "stone": _Stone}
    monkeypatch.setattr(target_options, "find_plugin", lambda name: Plugin(kinds[name]))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--chunks 2", {"chunks": 2}),
        ("--chunks=2 --layout ane", {"chunks": 2, "layout": "ane"}),
        ("--refit", {"refit": True}),
        ("--refit false --ratio 0.25", {"refit": False, "ratio": 0.25}),
        ("--capabilities sm86,sm120", {"capabilities": ("sm86", "sm120")}),
        ("--sizes 1,2", {"sizes": (1, 2)}),
        ("--limit 7", {"limit": 7}),
        ("--limit none", {"limit": None}),
        ('--bits {"conv":4}', {"bits": {"conv": 4}}),
        ("", {}),
    ],
)
def test_values(words, options):
    assert parse_target_options(words.split(), ["paper"]) == {"paper": options}
    _Paper(**options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--chunks two", "--chunks: got 'two', expected a whole number"),
        ("--chunks", "--chunks: got nothing, expected a whole number"),
        ("--refit maybe", "--refit: got 'maybe', expected no value, or true or false"),
        ("--sizes 1,x", "--sizes: got '1,x', expected a whole number, or several with commas between"),
        ("--bits 4", "--bits: got '4', expected a JSON object"),
        ("--limit x", "--limit: got 'x', expected a whole number, or none"),
        ("--colour red", "--colour: no such option of the command or of 'paper', expected one of --chunks "),
        ("--chunk 2", "--chunk: no such option of the command or of 'paper'. Did you mean '--chunks'?"),
        ("--modle x", "--modle: no such option of the command or of 'paper'. Did you mean '--model'?"),
        ("chunks", "argument 'chunks': got a word that belongs to no option; put a value with spaces in quotes"),
        ("--chunks 2 3", "argument '3': got a word that belongs to no option"),
    ],
)
def test_refusals(words, message):
    with pytest.raises(ConfigError) as error:
        parse_target_options(words.split(), ["paper"], ["--model", "--output"])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("words", "argument", "rest"),
    [
        ("emoji", "emoji", ""),
        ("emoji --chunks 2", "emoji", "--chunks 2"),
        ("--chunks 2 emoji", "emoji", "--chunks 2"),
        ("--chunks=2 emoji --refit", "emoji", "--chunks=2 --refit"),
        ("--ratio -1 emoji", "emoji", "--ratio -1"),
        ("--refit", None, "--refit"),
        ("", None, ""),
        ("a b", "a", "b"),
    ],
)
def test_the_argument_is_told_from_the_options_of_targets(words, argument, rest):
    context = click.Context(click.Command("export"))
    assert first_word(context, words.split()) == (argument, rest.split())
    with pytest.raises(click.NoSuchOption, match="-x"):
        first_word(context, ["-x", *words.split()])


def test_each_target_gets_what_it_has():
    got = parse_target_options(["--chunks", "2", "--layout", "ane"], ["paper", "stone"])
    assert got == {"paper": {"chunks": 2, "layout": "ane"}, "stone": {"chunks": 2}}


def test_options_are_described():
    described = describe_options("paper")
    assert described["--chunks"] == "a whole number, default 1"
    assert described["--capabilities"] == 'a word, or several with commas between, default ["sm89"]'
    assert described["--limit"] == "a whole number, or none, default none"
