"""The options --verbose and --quiet, which every command takes, and the log on standard error."""

import logging
from typing import Any

import click

from diffoundry.runtime.cli.console import err, set_quiet

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
    """Print warnings of the log alone, and all remarks: neither --verbose nor --quiet."""
    set_quiet(quiet=False)
    _LOGGER.setLevel(logging.NOTSET)
    _set_handler(logging.WARNING, "%(message)s")


def _set_handler(level: int, form: str) -> None:
    """Print the log from a level on, and drop the handler that was set before."""
    for handler in [found for found in _LOGGER.handlers if isinstance(found, _Handler)]:
        _LOGGER.removeHandler(handler)
    handler = _Handler(level)
    handler.setFormatter(logging.Formatter(form))
    _LOGGER.addHandler(handler)


class _Handler(logging.Handler):
    """Prints the log on standard error, control characters as escapes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        err.print(self.format(record), soft_wrap=True)


def _verbose(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value and not is_verbose():
        _set_handler(logging.DEBUG, _FORMAT)
        _LOGGER.setLevel(logging.DEBUG)


def _quiet(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value:
        set_quiet(quiet=True)
