"""PixArt, Sana and Hunyuan-DiT: the size that is generated, and guidance away from perturbed attention."""

from collections.abc import Sequence

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["PIXART"]


def _names(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str] | None:
    """Return the values of a repeated option, and None where it is not given."""
    return list(values) or None


_pixart = options_in("PixArt, Sana and Hunyuan-DiT")

PIXART = OptionGroup(
    options=(
        _pixart(
            "--resolution-binning/--no-resolution-binning",
            "use_resolution_binning",
            default=None,
            help="Generate in the closest size of the training and resize the image, or in the size that was asked for."
            "  [default: the former]",
        ),
        _pixart("--pag-scale", type=float, help="PAG: weight of guidance away from perturbed attention.  [default: 3]"),
        _pixart("--pag-adaptive-scale", type=float, help="PAG: decrease of --pag-scale per timestep.  [default: 0]"),
        _pixart(
            "--pag-layers",
            "pag_applied_layers",
            also=("--pag-applied-layers",),
            multiple=True,
            callback=_names,
            metavar="NAME",
            help="PAG: layer that is perturbed. Repeat for each.  [default: blocks.1; of Sana transformer_blocks.0]",
        ),
    ),
    settings=("use_resolution_binning", "pag_scale", "pag_adaptive_scale", "pag_applied_layers"),
)
