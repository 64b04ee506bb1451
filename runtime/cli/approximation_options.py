"""Options of `generate` for fewer calls of the denoiser, at the price of another image."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from diffoundry.runtime.checks.approximations import check_approximations
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import InputError

__all__ = ["APPROXIMATION_SETTINGS", "approximation_note", "approximation_options", "read_interval"]

Command = TypeVar("Command", bound=Callable[..., Any])

APPROXIMATION_SETTINGS = ("guidance_interval", "cache")

_FORM = r"([0-9]*\.?[0-9]+):([0-9]*\.?[0-9]+)"

_speed = options_in("Fewer calls of the denoiser, another image")


def read_interval(text: str, subject: str = "--guidance-interval") -> list[float]:
    """Read LOW:HIGH, fractions of the steps; `subject` names the option in messages.

    Raises:
        InputError: Anything else.
    """
    found = re.fullmatch(_FORM, text)
    if not found:
        raise InputError(f"{subject}: got {text!r}, expected LOW:HIGH, two fractions of the steps, such as 0.2:0.8")
    interval = [float(found[1]), float(found[2])]
    try:
        check_approximations(interval, None)
    except InputError as error:
        raise InputError(
            f"{subject}: got {text!r}, expected two fractions of the steps, 0 to 1, the lower first, such as 0.2:0.8"
        ) from error
    return interval


def _interval(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[float] | None:
    return None if value is None else read_interval(value)


_OPTIONS = (
    _speed(
        "--preset",
        metavar="NAME",
        help="Use the steps, guidance and cache that 'diffoundry tune' stored in the bundle. Options override them.",
    ),
    _speed(
        "--guidance-interval",
        metavar="LOW:HIGH",
        callback=_interval,
        help="Run guidance only between these fractions of the steps, such as 0.2:0.8.  [default: all steps]",
    ),
    _speed(
        "--cache",
        metavar="KIND:NUMBER",
        help="Forecast some steps instead of calling the denoiser: taylor:ORDER, sea:THRESHOLD or guidance:INTERVAL, "
        "with :interval=N, :final=N, :guidance-order=N. Or, of an export with --split, call its outer part alone: "
        "deep:INTERVAL, with :order=N, or first-block:THRESHOLD, both with :final=N.  [default: off]",
    ),
)


def approximation_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def approximation_note(bundle: str, settings: Mapping[str, Any]) -> str | None:
    """Return a sentence that the image is not that of the exact loop, with the command that measures the distance.

    Args:
        bundle: Name of the bundle.
        settings: Of the call.
    """
    given = {name: settings[name] for name in APPROXIMATION_SETTINGS if settings.get(name) is not None}
    if not given:
        return None
    texts = {
        name: value if isinstance(value, str) else ":".join(f"{one:g}" for one in value)
        for name, value in given.items()
    }
    words = ",".join(f"{name.replace('_', '-')}={text}" for name, text in texts.items())
    options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
    return (
        f"with {options} the image is not that of the exact loop; "
        f"'diffoundry verify {bundle} --approximation \"{words}\"' measures how far it is"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ":".join(f"{one:g}" for one in value)
