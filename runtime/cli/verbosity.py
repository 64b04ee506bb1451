"""The options --verbose and --quiet, which every command takes, and the log on standard error."""

import logging
from typing import Any

import click

from diffoundry.runtime.cli.console import set_quiet

__all__ = ["is_verbose", "reset_verbosity", "verbosity_options"]

_LOGGER = logging.getLogger("diffoundry")

_FORMAT = "%(asctime)s %(name)s: %(message)s"


def verbosity_options() -> list[click.Option]:
    """Return --verbose and --quiet. They take effect when they are parsed."""
    return [
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_verbose,
            envvar="DIFFOUNDRY_VERBOSE",
            help="Log every step to standard error, and print the traceback of an error.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_quiet,
            envvar="DIFFOUNDRY_QUIET",
            help="Print results, warnings and errors only.",
        ),
    ]


def is_verbose() -> bool:
    """Return True if the user passed --verbose."""
    return _LOGGER.isEnabledFor(logging.DEBUG)


def reset_verbosity() -> None:
    """Turn --verbose and --quiet off."""
    set_quiet(quiet=False)
    _LOGGER.setLevel(logging.NOTSET)
    for handler in [found for found in _LOGGER.handlers if isinstance(found, _Handler)]:
        _LOGGER.removeHandler(handler)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic for type checkers alone
    """Writes the log to standard error."""


def _verbose(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value and not is_verbose():
        handler = _Handler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        _LOGGER.addHandler(handler)
        _LOGGER.setLevel(logging.DEBUG)


def _quiet(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value:
        set_quiet(quiet=True)
