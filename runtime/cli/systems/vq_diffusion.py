"""VQ-Diffusion."""

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["VQ_DIFFUSION"]

_vq_diffusion = options_in("VQ-Diffusion")

VQ_DIFFUSION = OptionGroup(
    options=(
        _vq_diffusion(
            "--truncation-rate",
            type=click.FLOAT,
            help="Draw among the most likely codes, whose probabilities add up to this. 1 draws among all.",
        ),
    ),
    settings=("truncation_rate",),
)
