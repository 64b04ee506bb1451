"""Systems in pixel space: consistency models, DDIM, RePaint."""

from collections.abc import Sequence

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["PIXELS"]

_pixels = options_in("Pixel space")


def _listed(_context: click.Context, _parameter: click.Parameter, values: Sequence[int]) -> list[int]:
    """Return the values as a list, as JSON has it."""
    return list(values)


PIXELS = OptionGroup(
    options=(
        _pixels(
            "--timestep",
            "timesteps",
            type=int,
            multiple=True,
            callback=_listed,
            help="Consistency models: place in the trained noise levels. Repeat it, descending, such as 22 and 0.",
        ),
        _pixels(
            "--use-clipped-model-output/--no-use-clipped-model-output",
            default=None,
            help="DDIM: compute the noise again from the clipped image.",
        ),
        _pixels("--jump-length", type=int, help="RePaint: steps that a jump goes back in time.  [default: 10]"),
        _pixels("--jump-n-sample", type=int, help="RePaint: times through each stretch.  [default: 10]"),
    ),
    settings=("timesteps", "use_clipped_model_output", "jump_length", "jump_n_sample"),
)
