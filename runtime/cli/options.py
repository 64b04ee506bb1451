"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.engine import EngineOptions

__all__ = ["bundle_argument", "engine_options", "json_option", "take_engine_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path), metavar="DIR")

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


def engine_options(command: Command) -> Command:
    """Add --target, --precision, --device and --threads: which engine of the bundle runs, and where."""
    for option in (
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
    options = EngineOptions(device=values.pop("device"), threads=values.pop("threads"))
    return {"target": values.pop("target"), "precision": values.pop("precision"), "options": options}
