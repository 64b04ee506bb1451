"""PixArt and Sana: the size that is generated."""

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["PIXART"]

_pixart = options_in("PixArt and Sana")

PIXART = OptionGroup(
    options=(
        _pixart(
            "--resolution-binning/--no-resolution-binning",
            "use_resolution_binning",
            default=None,
            help="Generate in the closest size of the training and resize the image, or in the size that was asked for."
            "  [default: the former]",
        ),
    ),
    settings=("use_resolution_binning",),
)
