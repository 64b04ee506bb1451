"""Upscalers."""

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["UPSCALING"]

_upscaling = options_in("Upscaling")

UPSCALING = OptionGroup(
    options=(
        _upscaling("--noise-level", type=int, help="Noise on --image before it is enlarged; more gives more freedom."),
    ),
    settings=("noise_level",),
)
