"""PixArt, Sana and Hunyuan-DiT: the size that is generated."""

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["PIXART"]

PIXART = OptionGroup(
    options=(
        options_in("PixArt, Sana and Hunyuan-DiT")(
            "--resolution-binning/--no-resolution-binning",
            "use_resolution_binning",
            default=None,
            help="Generate in the closest size of the training and resize the image, or in the size that was asked for."
            "  [default: the former]",
        ),
    ),
    settings=("use_resolution_binning",),
)
