"""Options of `generate` for prompts and how they are encoded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.prompt_file import read_prompt_file

__all__ = ["PROMPT_SETTINGS", "prompt_options", "take_prompts"]

Command = TypeVar("Command", bound=Callable[..., Any])

PROMPT_SETTINGS = ("clip_skip", "prompt_weighting", "long_prompts")
"""Their names as arguments of a pipeline, without the prompts."""


_prompt = options_in("Prompt")


def prompt_options(command: Command) -> Command:
    """Add the options for prompts."""
    for option in (
        _prompt("--clip-skip", type=int, help="Skip this many last layers of the text encoder.  [default: none]"),
        _prompt(
            "--long-prompts/--no-long-prompts", default=None,
            help="Encode prompts of more than 77 tokens in chunks.  [default: off]",
        ),
        _prompt(
            "--prompt-weighting/--no-prompt-weighting", default=None,
            help="Read (word:1.3), (word) and [word] as weights.  [default: off]",
        ),
        _prompt(
            "--prompts", "prompts_file", type=click.Path(path_type=Path), metavar="FILE",
            help="Read prompts from a text file, one a line.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def take_prompts(values: dict[str, Any]) -> None:
    """Convert the prompts and seeds of a command's arguments to a pipeline's: one, a list, or None.

    Raises:
        InputError: The file of prompts cannot be read or is empty, or prompts were passed as well.
    """
    path = values.pop("prompts_file")
    prompts = list(values["prompt"])
    if path is not None:
        if prompts:
            raise InputError(f"--prompts {path}: got prompts after DIR as well, expected one of the two")
        prompts = _read(path)
    values["prompt"] = _one_or_list(prompts)
    values["seed"] = _one_or_list(list(values["seed"]))


def _one_or_list(entries: list[Any]) -> Any:
    return (entries[0] if len(entries) == 1 else entries) if entries else None


def _read(path: Path) -> list[str]:
    """The lines of a file that are not blank."""
    prompts = read_prompt_file(path, "--prompts")
    if not prompts:
        raise InputError(f"--prompts {path}: got no line with a prompt, expected at least one")
    return prompts
