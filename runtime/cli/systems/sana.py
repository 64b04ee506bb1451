"""Sana and Sana-Sprint: the instruction before a prompt, and timesteps."""

from collections.abc import Sequence

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["SANA"]


def _lines(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str] | None:
    """Return the lines of a repeated option, no line for one empty text, and None where it is not given."""
    return [line for line in values if line] if values else None


_sana = options_in("Sana")

SANA = OptionGroup(
    options=(
        _sana(
            "--instruction", "complex_human_instruction", also=("--complex-human-instruction",), multiple=True,
            callback=_lines, metavar="TEXT",
            help="Line that the text encoder reads before the prompt. Repeat for each; \"\" for none."
            "  [default: those of the training]",
        ),
        _sana("--max-timesteps", type=float, help="Sprint: first timestep, at most 1.5708.  [default: 1.5708]"),
        _sana("--intermediate-timesteps", type=float, help="Sprint: second of two timesteps.  [default: 1.3]"),
    ),
    settings=("complex_human_instruction", "max_timesteps", "intermediate_timesteps"),
)  # fmt: skip
