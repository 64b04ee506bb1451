"""Options that several commands share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.console import remark
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError, UnknownArgumentError
from diffoundry.runtime.suggest import nearest_words

__all__ = ["bundle_argument", "engine_options", "json_option", "take_engine_options", "tell_choice", "unknown_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path), metavar="DIR")

json_option = options_in("Output")("--json", "as_json", is_flag=True, help="Print the result as JSON.")

_engine = options_in("Engine")

_ENGINE_OPTIONS = (
    _engine("--target", help="Use the engines of this target."),
    _engine("--precision", help="Use the engines of this precision."),
    _engine("--device", help="Device of the target: cpu, gpu, cuda:0 ...  [default: the target's first]"),
    _engine("--threads", type=click.IntRange(min=1), help="Threads of one engine call."),
    _engine("--hint", type=click.Choice(["latency", "throughput"]), help="Optimize engines for latency or throughput."),
    _engine("--cache", type=click.Path(path_type=Path, file_okay=False), help="Keep compiled engines in this folder."),
    _engine("--native/--no-native", default=True, help="Use diffoundry's own kernels where installed."),
)


def engine_options(command: Command) -> Command:
    """Add --target, --precision, --device and the other options that select engines and how they run."""
    for option in reversed(_ENGINE_OPTIONS):
        command = option(command)
    return command


def take_engine_options(values: dict[str, Any]) -> dict[str, Any]:
    """Move the values of `engine_options` out of a command's arguments, as keyword arguments for `load`."""
    names = ("device", "threads", "hint", "cache", "native")
    options = EngineOptions(**{name: values.pop(name) for name in names})
    return {"target": values.pop("target"), "precision": values.pop("precision"), "options": options}


def tell_choice(components: EngineSession) -> None:
    """Report which engines of a bundle cannot run here and why.

    Raises:
        EngineError: Some component has no engine that can run here.
    """
    for sentence in components.notes():
        remark(f"note: {sentence}; another engine of the bundle is used")


@contextmanager
def unknown_options(command: click.Command) -> Iterator[None]:
    """Name the option of a command that a pipeline has no argument for, as typed, and the nearest ones that it takes.

    Raises:
        InputError: The pipeline raised an `UnknownArgumentError`.
    """
    try:
        yield
    except UnknownArgumentError as error:
        typed = {p.name: p.opts[0] for p in command.params if p.name and p.opts[0].startswith("--")}
        near = [typed[name] for name in nearest_words(error.name, [name for name in error.known if name in typed])]
        advice = f". Did you mean {' or '.join(near)}?" if near else "; leave it out"
        option = typed.get(error.name, error.name)
        raise InputError(f"{option}: no such argument of this pipeline{advice}") from error
