"""Sana and Sana-Sprint: the instruction before a prompt, timesteps, and guidance away from perturbed attention."""

from collections.abc import Sequence

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["SANA"]


def _lines(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str] | None:
    """Return the lines of a repeated option, no line for one empty text, and None where it is not given."""
    return [line for line in values if line] if values else None


def _names(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str] | None:
    """Return the values of a repeated option, and None where it is not given."""
    return list(values) or None


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
        _sana("--pag-scale", type=float, help="PAG: weight of guidance away from perturbed attention.  [default: 3]"),
        _sana("--pag-adaptive-scale", type=float, help="PAG: decrease of --pag-scale per timestep.  [default: 0]"),
        _sana(
            "--pag-layers", "pag_applied_layers", also=("--pag-applied-layers",), multiple=True, callback=_names,
            metavar="NAME", help="PAG: layer that is perturbed. Repeat for each.  [default: transformer_blocks.0]",
        ),
    ),
    settings=(
        "complex_human_instruction", "max_timesteps", "intermediate_timesteps", "pag_scale", "pag_adaptive_scale",
        "pag_applied_layers",
    ),
)  # fmt: skip
