"""Checks of the words that a user types, before any library is imported and any work begins."""

from collections.abc import Sequence
from itertools import product

import click

from diffoundry.runtime.bundle.specs import PRECISIONS, Variant
from diffoundry.runtime.cli.target_options import parse_target_options
from diffoundry.runtime.engines.plugins import find_plugin, list_plugins
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["check_word", "first_word", "joined", "parse_variants"]


def joined(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Join the values of a repeated option, which means the same as one value with commas."""
    return ",".join(values) or None


def first_word(context: click.Context, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Separate the argument of a command from the options of targets, which click leaves unread.

    The word after an option is its value: `--chunks 2 emoji` has the argument "emoji", `emoji --chunks 2` too.

    Args:
        context: Context of the command, whose options are suggested for a misspelled one.
        words: Words that no option of the command took.

    Returns:
        The argument, or None; and the other words in their order.

    Raises:
        UsageError: An option of one letter that does not exist.
    """
    found: str | None = None
    rest: list[str] = []
    awaits_value = False
    for word in words:
        if word[:1] == "-" != word[1:2] and len(word) > 1 and not awaits_value:
            raise click.NoSuchOption(word, ctx=context)
        if word.startswith("--"):
            rest.append(word)
            awaits_value = "=" not in word
        elif awaits_value:
            rest.append(word)
            awaits_value = False
        elif found is None:
            found = word
        else:
            rest.append(word)
    return found, rest


def parse_variants(
    targets: str, precisions: str | None, arguments: list[str], options: Sequence[str] = ()
) -> tuple[Variant, ...]:
    """Combine every target with every precision, targets first, with the targets' options.

    Args:
        targets: Names with commas between.
        precisions: Names with commas between, or None for fp32.
        arguments: Words that no option of the command took.
        options: Options of the command, to suggest one for a misspelled word.

    Raises:
        InputError: An unknown target or precision.
        ConfigError: An option that no target has.
    """
    names, chosen = _words(targets), _words(precisions or "fp32")
    for name in names:
        check_word("--target", name, [plugin.name for plugin in list_plugins()])
    for precision in chosen:
        check_word("--precision", precision, PRECISIONS)
    for name, precision in product(names, chosen):
        compiles = find_plugin(name).compiles
        if compiles and precision not in compiles:
            raise InputError(
                f"--precision: got {precision!r}, which {name} does not compile, expected one of {', '.join(compiles)}"
            )
    taken = parse_target_options(arguments, names, options)
    return tuple(
        Variant(target=name, precision=precision, options=taken[name]) for name, precision in product(names, chosen)
    )


def check_word(option: str, word: str, words: Sequence[str]) -> None:
    """Refuse a word that is not among those that an option takes.

    Raises:
        InputError: The word is unknown; the message suggests the nearest.
    """
    if word not in words:
        raise InputError(f"{option}: got {word!r}, expected one of {', '.join(words)}.{did_you_mean(word, words)}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
