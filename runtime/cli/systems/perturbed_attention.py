"""Guidance away from perturbed attention, of the classes of diffusers with PAG in their names."""

from collections.abc import Sequence

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["PERTURBED_ATTENTION"]


def _names(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str] | None:
    """Return the values of a repeated option, and None where it is not given."""
    return list(values) or None


_perturbed = options_in("Perturbed-attention guidance (PAG)")

PERTURBED_ATTENTION = OptionGroup(
    options=(
        _perturbed("--pag-scale", type=float, help="Weight of guidance away from perturbed attention.  [default: 3]"),
        _perturbed("--pag-adaptive-scale", type=float, help="Decrease of --pag-scale per timestep.  [default: 0]"),
        _perturbed(
            "--pag-layers",
            "pag_applied_layers",
            also=("--pag-applied-layers",),
            multiple=True,
            callback=_names,
            metavar="NAME",
            help="Layer that is perturbed. Repeat for each.  [default: mid of a UNet, blocks.1 of PixArt and "
            "Hunyuan-DiT, transformer_blocks.0 of Sana]",
        ),
    ),
    settings=("pag_scale", "pag_adaptive_scale", "pag_applied_layers"),
)
