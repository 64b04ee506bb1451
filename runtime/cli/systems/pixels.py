"""Systems in pixel space: consistency models, DDIM, RePaint."""

from collections.abc import Sequence

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup, list_values

__all__ = ["PIXELS"]

_pixels = options_in("Pixel space")


def _numbers(context: click.Context, parameter: click.Parameter, values: Sequence[float]) -> list[float]:
    """Return the values as a list, whole ones as whole numbers."""
    return [int(value) if value.is_integer() else value for value in list_values(context, parameter, values)]


PIXELS = OptionGroup(
    options=(
        _pixels(
            "--timestep",
            "timesteps",
            type=float,
            multiple=True,
            callback=_numbers,
            help="Consistency models: place in the trained noise levels. Repeat it, descending, such as 22 and 0. "
            "Würstchen: time from 1 to 0, the last one where the run ends.",
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
