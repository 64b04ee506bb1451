"""Depth of the image that a run starts from."""

from pathlib import Path

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["DEPTH"]

_depth = options_in("Depth to image")

DEPTH = OptionGroup(
    options=(
        _depth(
            "--depth-map",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Grey image of the depth of --image, of 8 or 16 bits, bright where near.  [default: estimated]",
        ),
    ),
    files={"depth_map": "--depth-map"},
)
