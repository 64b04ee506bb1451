"""Options of `generate` that only some pipelines take: images to begin with, second prompts, sizes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from diffoundry.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PIPELINE_SETTINGS", "pipeline_options", "read_images", "take_images"]

Command = TypeVar("Command", bound=Callable[..., Any])

_FILES = ("image", "mask_image")


def _size(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Read WIDTHxHEIGHT as [height, width]; a list, as JSON has it."""
    pair = _pair(parameter, value, "x", "WIDTHxHEIGHT")
    return pair and pair[::-1]


def _corner(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Read TOP,LEFT."""
    return _pair(parameter, value, ",", "TOP,LEFT")


def _pair(parameter: click.Parameter, value: str | None, mark: str, form: str) -> list[int] | None:
    """Two whole numbers with a mark between them.

    Raises:
        InputError: Anything else.
    """
    if value is None:
        return None
    first, found, second = value.partition(mark)
    if not (found and first.isdecimal() and second.isdecimal()):
        raise InputError(f"{parameter.name}: got {value!r}, expected {form}, two whole numbers")
    return [int(first), int(second)]


_FILE = click.Path(path_type=Path)

_OPTIONS = (
    click.option("--image", type=_FILE, help="Begin with this image instead of noise alone."),
    click.option("--strength", type=float, help="With --image: how much may change, 0 to 1."),
    click.option(
        "--denoising-start", type=float, help="With --image: how much of the schedule it has behind it, 0 to 1."
    ),
    click.option("--denoising-end", type=float, help="Stop after this part of the schedule, 0 to 1."),
    click.option("--mask", "mask_image", type=_FILE, help="With --image: regenerate where this mask is white."),
    click.option("--padding-mask-crop", type=int, help="Generate only the area of --mask and N pixels around it."),
    click.option("--image-guidance-scale", type=float, help="InstructPix2Pix: how near to --image.  [default: 1.5]"),
    click.option("--prompt-2", help="XL: for the second text encoder.  [default: PROMPT]"),
    click.option("--negative-2", "negative_prompt_2", help="The same of --negative."),
    click.option("--original-size", callback=_size, metavar="WxH", help="XL: the size before scaling."),
    click.option("--target-size", callback=_size, metavar="WxH", help="XL: the size after it."),
    click.option(
        "--crops-coords-top-left", callback=_corner, metavar="TOP,LEFT", help="XL: corner of what was cut out."
    ),
    click.option("--aesthetic-score", type=float, help="XL refiner.  [default: 6]"),
    click.option("--negative-aesthetic-score", type=float, help="The same for the negative prompt.  [default: 2.5]"),
)

PIPELINE_SETTINGS = (
    "strength",
    "denoising_start",
    "denoising_end",
    "padding_mask_crop",
    "image_guidance_scale",
    "prompt_2",
    "negative_prompt_2",
    "original_size",
    "target_size",
    "crops_coords_top_left",
    "aesthetic_score",
    "negative_aesthetic_score",
)
"""Their names as arguments of a pipeline, without those that are files."""


def pipeline_options(command: Command) -> Command:
    """Add them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_images(values: dict[str, Any]) -> dict[str, Path]:
    """Move the files out of a command's arguments: argument of the pipeline to path, of those given."""
    given = {name: values.pop(name) for name in _FILES}
    return {name: path for name, path in given.items() if path is not None}


def read_images(paths: Mapping[str, Path]) -> dict[str, Any]:
    """Open images: argument of the pipeline to PIL image.

    Raises:
        InputError: A file that cannot be read as one.
    """
    return {name: _read(name, path) for name, path in paths.items()}


def _read(name: str, path: Path) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} {path}: cannot be read ({error}); expected an image such as a PNG or JPEG") from error
    return image
