"""Stable Cascade: images that its prior reads beside the prompt."""

from pathlib import Path

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["CASCADES"]

_cascades = options_in("Stable Cascade")

CASCADES = OptionGroup(
    options=(
        _cascades(
            "--prior-image",
            "images",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="FILE",
            help="Image that the prior reads beside the prompt. Repeat it to use several.",
        ),
    ),
    files={"images": "--prior-image"},
)
