"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.console import remark
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.engines.session import EngineSession

__all__ = ["bundle_argument", "engine_options", "json_option", "take_engine_options", "tell_choice"]

Command = TypeVar("Command", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path), metavar="DIR")

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


def engine_options(command: Command) -> Command:
    """Add --target, --precision, --device and the like: which engine of the bundle runs, where and how."""
    for option in (
        click.option("--native/--no-native", default=True, help="Use diffoundry's own kernels where installed."),
        click.option(
            "--cache", type=click.Path(path_type=Path, file_okay=False), help="Keep compiled engines in this folder."
        ),
        click.option("--hint", type=click.Choice(["latency", "throughput"]), help="What the vendor should favour."),
        click.option("--threads", type=click.IntRange(min=1), help="Threads for one engine call."),
        click.option(
            "--device", help="Device in the target's words: cpu, gpu, cuda:0 ...  [default: the target's first]"
        ),
        click.option("--precision", help="Use the engines of this precision."),
        click.option("--target", help="Use the engines of this target."),
    ):
        command = option(command)
    return command


def take_engine_options(values: dict[str, Any]) -> dict[str, Any]:
    """Move the values of `engine_options` out of a command's arguments, as keyword arguments for `load`."""
    names = ("device", "threads", "hint", "cache", "native")
    options = EngineOptions(**{name: values.pop(name) for name in names})
    return {"target": values.pop("target"), "precision": values.pop("precision"), "options": options}


def tell_choice(components: EngineSession) -> None:
    """Say which engines of a bundle are passed over here and why.

    Raises:
        EngineError: Some component has no engine that can run here.
    """
    for sentence in components.notes():
        remark(f"note: {sentence}; another engine of the bundle is used")
