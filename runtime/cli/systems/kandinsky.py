"""The hint of Kandinsky 2.2's decoders."""

from pathlib import Path

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["KANDINSKY"]

_kandinsky = options_in("Kandinsky")

KANDINSKY = OptionGroup(
    options=(
        _kandinsky(
            "--hint-image",
            "hint",
            type=click.Path(path_type=Path),
            help="Depth map, or what the checkpoint takes as its hint, of the size of the image.",
        ),
    ),
    files={"hint": "--hint-image"},
)
