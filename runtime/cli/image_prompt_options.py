"""Options of `generate` for image prompts. A repeated option sets one value an IP-Adapter, in the bundle's order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.control_options import one_or_list
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.read import read_image_file

__all__ = ["IMAGE_PROMPT_SETTINGS", "image_prompt_options", "read_image_prompts"]

Command = TypeVar("Command", bound=Callable[..., Any])

IMAGE_PROMPT_SETTINGS = ("ip_adapter_scale",)
"""Their names as arguments of a pipeline, without the images."""

_prompt = options_in("Image prompts")

_OPTIONS = (
    _prompt(
        "--image-prompt", "ip_adapter_image", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
        also=("--ip-adapter-image",),
        help="Image for an IP-Adapter. Repeat for each; with one IP-Adapter, several images count together.",
    ),
    _prompt(
        "--image-prompt-scale", "ip_adapter_scale", type=float, multiple=True, callback=one_or_list,
        also=("--ip-adapter-scale",),
        help="Weight of the image prompts of an IP-Adapter.  [default: 1]",
    ),
    _prompt(
        "--image-prompt-mask", "ip_adapter_masks", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
        help="Mask, white where an image prompt works. Repeat for each --image-prompt.",
    ),
)  # fmt: skip


def image_prompt_options(command: Command) -> Command:
    """Add the options for image prompts."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_image_prompts(images: Sequence[Path], masks: Sequence[Path], adapters: int) -> dict[str, Any]:
    """Read the images and masks of image prompts as the pipeline's arguments.

    Args:
        images: Image files.
        masks: Image files, as many or none.
        adapters: Number of IP-Adapters of the bundle.

    Raises:
        InputError: A file that cannot be read, or another number of masks than of images.
    """
    if masks and len(masks) != len(images):
        raise InputError(
            f"--image-prompt-mask: got {len(masks)} masks for {len(images)} of --image-prompt, expected one for each"
        )
    found = {
        "ip_adapter_image": [read_image_file(path, "--image-prompt") for path in images],
        "ip_adapter_masks": [read_image_file(path, "--image-prompt-mask") for path in masks],
    }
    together = adapters == 1
    return {name: [read] if together else [[one] for one in read] for name, read in found.items() if read}
