"""Options of `generate` that say what prompts there are and how they are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.errors import InputError

__all__ = ["PROMPT_SETTINGS", "prompt_options", "take_prompts"]

Command = TypeVar("Command", bound=Callable[..., Any])

PROMPT_SETTINGS = ("clip_skip", "prompt_weighting", "long_prompts")
"""Their names as arguments of a pipeline, without the prompts."""


def prompt_options(command: Command) -> Command:
    """Add them."""
    for option in (
        click.option("--clip-skip", type=int, help="Leave out so many layers of the text encoder.  [default: none]"),
        click.option(
            "--long-prompts/--no-long-prompts", default=None,
            help="Prompts may have more than 77 tokens; changes the image of those that do.  [default: off]",
        ),
        click.option(
            "--prompt-weighting/--no-prompt-weighting", default=None,
            help="Read (word:1.3), (word) and [word] as weights; changes the image.  [default: off]",
        ),
        click.option(
            "--prompts", "prompts_file", type=click.Path(path_type=Path), metavar="FILE",
            help="Read prompts from a text file, one a line.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def take_prompts(values: dict[str, Any]) -> None:
    """Bring the prompts and seeds of a command's arguments into the form of a pipeline's: one, a list, or None.

    Raises:
        InputError: The file of prompts cannot be read or is empty, or there are prompts beside it.
    """
    path = values.pop("prompts_file")
    prompts = list(values["prompt"])
    if path is not None:
        if prompts:
            raise InputError(f"--prompts {path}: got it with prompts after DIR, expected one of the two")
        prompts = _read(path)
    values["prompt"] = _one_or_list(prompts)
    values["seed"] = _one_or_list(list(values["seed"]))


def _one_or_list(entries: list[Any]) -> Any:
    return (entries[0] if len(entries) == 1 else entries) if entries else None


def _read(path: Path) -> list[str]:
    """The lines of a file that are not blank."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {path}: cannot be read ({error}); expected a text file in UTF-8") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"--prompts {path}: got no line with a prompt, expected at least one")
    return prompts
