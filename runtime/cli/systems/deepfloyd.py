"""DeepFloyd IF: the image of the first stage, cleaning of prompts, and the watermark."""

from pathlib import Path

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["DEEPFLOYD"]

_deepfloyd = options_in("DeepFloyd IF")

DEEPFLOYD = OptionGroup(
    options=(
        _deepfloyd(
            "--original-image",
            type=click.Path(path_type=Path),
            help="Second stage: the image that --image was made of. --strength and --mask are about it.",
        ),
        _deepfloyd(
            "--clean-caption/--no-clean-caption",
            default=None,
            help="Remove links, markup and signs from prompts, also of PixArt and Sana."
            "  [default: if beautifulsoup4 and ftfy are installed; of Sana off]",
        ),
        _deepfloyd(
            "--disable-watermark",
            is_flag=True,
            default=None,
            help="Draw no watermark, which diffusers draws if the checkpoint has one.",
        ),
    ),
    settings=("clean_caption", "disable_watermark"),
    files={"original_image": "--original-image"},
)
