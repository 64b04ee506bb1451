"""Stable Cascade and Würstchen: images that a prior reads beside the prompt, and its timesteps."""

from pathlib import Path

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup, list_values

__all__ = ["CASCADES"]

_cascades = options_in("Stable Cascade and Würstchen")

CASCADES = OptionGroup(
    options=(
        _cascades(
            "--prior-image",
            "images",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="FILE",
            help="Stable Cascade, FLUX.1 Redux: image that the prior reads. Repeat it to use several.",
        ),
        _cascades(
            "--prior-timestep",
            "prior_timesteps",
            type=float,
            multiple=True,
            callback=list_values,
            help="Würstchen: time of the prior, from 1 to 0. Repeat it, descending; the last is where it ends. "
            "--timestep is that of the decoder.",
        ),
    ),
    settings=("prior_timesteps",),
    files={"images": "--prior-image"},
)
