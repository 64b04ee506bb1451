"""Class labels of models that were trained with classes."""

from collections.abc import Sequence

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["CLASS_LABELS"]

_classes = options_in("Class labels")


def _read(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[int | str]:
    """Read numbers where the texts are some."""
    return [int(value) if value.isdecimal() else value for value in values]


CLASS_LABELS = OptionGroup(
    options=(
        _classes(
            "--class-label",
            "class_labels",
            multiple=True,
            callback=_read,
            metavar="LABEL",
            help="Number of a class, or its name where the bundle has names. Repeat it to set one for each image.",
        ),
    ),
    settings=("class_labels",),
)
