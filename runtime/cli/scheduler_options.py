"""Options of `generate` for the scheduler: its name, and options that override the checkpoint's config."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.completion import complete_scheduler
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.schedulers import fitting_schedulers, resolve_scheduler, scheduler_class
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["SCHEDULER_SETTINGS", "apply_scheduler", "parse_value", "scheduler_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

SCHEDULER_SETTINGS = ("scheduler", "scheduler_options")
"""Their names in the settings of an image."""

_OPTION = "--scheduler-option"
_WORDS = {"true": True, "false": False, "none": None}

_scheduler = options_in("Image")


def _read(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> dict[str, Any] | None:
    """Read NAME=VALUE texts; values are JSON, words of Python, or text.

    Raises:
        InputError: A text without "=", or a name twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (name and equals):
            raise InputError(f"{_OPTION}: got {text!r}, expected NAME=VALUE such as use_karras_sigmas=true")
        if name in options:
            raise InputError(f"{_OPTION} {name}: got it twice, expected one value")
        options[name] = parse_value(value.strip())
    return options or None


def parse_value(value: str) -> Any:
    """Read a value as JSON, a word of Python, or text."""
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    try:
        return json.loads(value, parse_constant=lambda constant: constant)  # NaN and Infinity are no JSON
    except (ValueError, RecursionError):
        return value


_OPTIONS = (
    _scheduler(
        "--scheduler",
        shell_complete=complete_scheduler,
        help="A name such as euler_a, dpmpp_2m_karras or EulerDiscrete.  [default: the checkpoint's]",
    ),
    _scheduler(
        _OPTION, "scheduler_options", multiple=True, metavar="NAME=VALUE", callback=_read,
        help="Option of the scheduler, such as use_karras_sigmas=true. May be repeated.",
    ),
)  # fmt: skip


def scheduler_options(command: Command) -> Command:
    """Add --scheduler and --scheduler-option."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def apply_scheduler(pipeline: PipelineBase, settings: dict[str, Any]) -> None:
    """Check the scheduler and its options, and give the options to the pipeline.

    Args:
        pipeline: Its scheduler config is changed.
        settings: Its entries are replaced by the name of the class and all options that differ from the checkpoint's.

    Raises:
        InputError: An unknown name, or an option that the scheduler does not have or honour.
    """
    name, options = settings.get("scheduler"), dict(settings.pop("scheduler_options", None) or {})
    if name is None and not options:
        return
    config = pipeline.scheduler_config
    cls: Any = scheduler_class(config["_class_name"])
    named: Mapping[str, Any] = {}
    if name is not None:
        cls, named = _resolve(name, flow=not pipeline.scales_latents)
        settings["scheduler"] = cls.__name__.removesuffix("Scheduler")
    known = {field.name for field in fields(cls.Options)}
    for option, value in options.items():
        if option not in known:
            question = did_you_mean(option, known)
            raise InputError(
                f"{_OPTION} {option}: {cls.__name__} has no such option{f'.{question}' if question else ''}"
                f"{' Expected' if question else ', expected'} one of {', '.join(sorted(known))}"
            )
        if named.get(option, value) != value:
            raise InputError(f"{_OPTION} {option}: got {value!r}, but --scheduler {name} means {named[option]!r}")
    changed = {**named, **options}
    if not changed:
        return
    try:
        cls.from_config({**config, **changed})
    except ConfigError as error:
        raise InputError(f"{_OPTION if options else '--scheduler'}: {error}") from error
    settings["scheduler_options"] = changed
    pipeline.scheduler_config = {**config, **changed}


def _resolve(name: str, *, flow: bool) -> tuple[Any, Mapping[str, Any]]:
    """Return class and options of a name; an error lists those that fit the pipeline, which takes time to find."""
    try:
        choice = resolve_scheduler(name, flow=flow)
    except InputError:
        choice = resolve_scheduler(name, flow=flow, fitting=fitting_schedulers(flow=flow))
    return choice.cls, choice.options
