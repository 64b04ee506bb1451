"""Options of `generate` that only some pipelines support: initial images, second prompts, sizes."""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems import SYSTEM_FILES
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.read import read_image_file

__all__ = ["IMAGE_FILES", "PIPELINE_SETTINGS", "pipeline_options", "read_images", "take_images"]

Command = TypeVar("Command", bound=Callable[..., Any])

_SHOWN = 40

IMAGE_FILES = {"image": "--image", "mask_image": "--mask", "image_reference": "--image-reference", **SYSTEM_FILES}
"""Arguments of a pipeline that are files here, to their options."""


def _size(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Read WIDTHxHEIGHT as [height, width]; a list, as JSON has it."""
    pair = _pair(parameter, value, "x", "WIDTHxHEIGHT")
    return pair and pair[::-1]


def _corner(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Read TOP,LEFT."""
    return _pair(parameter, value, ",", "TOP,LEFT")


def _numbers(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Read N,N,... as a list.

    Raises:
        InputError: Anything else.
    """
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", value):
        got = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        raise InputError(f"{parameter.opts[0]}: got {got!r}, expected whole numbers with commas, such as 7,8,9")
    return [int(number) for number in value.split(",")]


def _pair(parameter: click.Parameter, value: str | None, mark: str, form: str) -> list[int] | None:
    """Read two whole numbers with a mark between them.

    Raises:
        InputError: Anything else.
    """
    if value is None:
        return None
    first, found, second = value.partition(mark)
    if not (found and re.fullmatch(r"[0-9]{1,6}", first) and re.fullmatch(r"[0-9]{1,6}", second)):
        got = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        raise InputError(f"{parameter.opts[0]}: got {got!r}, expected {form}, two whole numbers")
    return [int(first), int(second)]


_FILE = click.Path(path_type=Path)

_image = options_in("Image to image and inpainting")

_xl = options_in("Stable Diffusion XL")

_sd3 = options_in("Stable Diffusion 3")

_flux = options_in("FLUX")

_z_image = options_in("Z-Image")

_qwen = options_in("Qwen-Image")

_OPTIONS = (
    _image(
        "--image",
        type=_FILE,
        multiple=True,
        help="Start from this image. May be repeated: one for each PROMPT, or several that "
        "FLUX.2, Qwen-Image 2.1 and Z-Image Omni see at once.",
    ),
    _image("--strength", type=float, help="How much of --image may change, 0 to 1."),
    _image(
        "--mask",
        "mask_image",
        also=("--mask-image",),
        type=_FILE,
        help="Regenerate --image where this mask is white; RePaint: where it is black.",
    ),
    _image("--padding-mask-crop", type=int, help="Regenerate only the area of --mask and N pixels around it."),
    _image("--image-guidance-scale", type=float, help="InstructPix2Pix: similarity to --image.  [default: 1.5]"),
    _image("--denoising-start", type=float, help="Skip this fraction of the schedule, 0 to 1. Needs --image."),
    _image("--denoising-end", type=float, help="Stop after this fraction of the schedule, 0 to 1."),
    _xl("--prompt-2", help="Prompt of the second text encoder.  [default: PROMPT]"),
    _xl(
        "--negative-2",
        "negative_prompt_2",
        also=("--negative-prompt-2",),
        help="Negative prompt of the second text encoder.",
    ),
    _xl("--original-size", callback=_size, metavar="WxH", help="Size condition: the size before scaling."),
    _xl("--target-size", callback=_size, metavar="WxH", help="Size condition: the size after scaling."),
    _xl("--crops-coords-top-left", callback=_corner, metavar="TOP,LEFT", help="Size condition: corner of the crop."),
    _xl("--aesthetic-score", type=float, help="Refiner: score of the prompt.  [default: 6]"),
    _xl("--negative-aesthetic-score", type=float, help="Refiner: score of the negative prompt.  [default: 2.5]"),
    _sd3("--prompt-3", help="Prompt of T5; --prompt-2 is that of the second CLIP encoder.  [default: PROMPT]"),
    _sd3("--negative-3", "negative_prompt_3", also=("--negative-prompt-3",), help="Negative prompt of T5."),
    _sd3(
        "--max-sequence-length",
        type=int,
        help="Most tokens of a prompt, of T5 or of a language model.  [default: 256; PixArt-Alpha 120,"
        " PixArt-Sigma and Sana 300, FLUX, Chroma, Z-Image and Qwen-Image 512]",
    ),
    _sd3(
        "--skip-layers", "skip_guidance_layers", also=("--skip-guidance-layers",), callback=_numbers, metavar="N,N,...",
        help="Skip-layer guidance: guide away from what the transformer predicts without these layers.",
    ),
    _sd3(
        "--skip-layer-scale", "skip_layer_guidance_scale", also=("--skip-layer-guidance-scale",), type=float,
        help="Weight of skip-layer guidance.  [default: 2.8]",
    ),
    _sd3(
        "--skip-layer-start", "skip_layer_guidance_start", also=("--skip-layer-guidance-start",), type=float,
        help="Fraction of the steps after which skip-layer guidance begins.  [default: 0.01]",
    ),
    _sd3(
        "--skip-layer-stop", "skip_layer_guidance_stop", also=("--skip-layer-guidance-stop",), type=float,
        help="Fraction of the steps before which skip-layer guidance ends.  [default: 0.2]",
    ),
    _flux(
        "--image-reference",
        type=_FILE,
        multiple=True,
        help="FLUX.2, Kontext: an image to see while a part of --image is generated again. May be repeated.",
    ),
    _flux("--max-area", type=int, help="Kontext: pixels of the result.  [default: 1048576, 1024 x 1024]"),
    _flux(
        "--true-cfg-scale",
        type=float,
        help="Guidance by --negative-prompt, at twice the cost; --guidance-scale is embedded. Also of Qwen-Image."
        "  [default: 1, off; Qwen-Image 4, 2.1 off]",
    ),
    _z_image(
        "--cfg-normalization", type=float, help="Limit the norm of a guided prediction to N times that of the prompt's."
    ),
    _z_image(
        "--cfg-truncation", type=float, help="Guide up to this time, from 0, noise, to 1.  [default: 1, to the end]"
    ),
    _qwen("--layers", type=int, help="Layered: layers of each result.  [default: 4]"),
    _qwen(
        "--resolution",
        type=int,
        help="Layered: side of a square with as many pixels as a layer, 640 or 1024.  [default: 640]",
    ),
    _qwen(
        "--cfg-normalize", is_flag=True, default=None, help="Layered: keep the length of each token under guidance."
    ),
    _qwen(
        "--output-resolution",
        type=int,
        help="2.1: side of a square with as many pixels as an image that is seen, and as the result.  [default: 1024]",
    ),
)  # fmt: skip

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
    "prompt_3",
    "negative_prompt_3",
    "max_sequence_length",
    "skip_guidance_layers",
    "skip_layer_guidance_scale",
    "skip_layer_guidance_start",
    "skip_layer_guidance_stop",
    "true_cfg_scale",
    "max_area",
    "cfg_normalization",
    "cfg_truncation",
    "layers",
    "resolution",
    "cfg_normalize",
    "output_resolution",
)
"""Their names as arguments of a pipeline, without the files."""


def pipeline_options(command: Command) -> Command:
    """Add the options that only some pipelines support."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_images(values: dict[str, Any]) -> dict[str, Path | list[Path]]:
    """Move the files out of a command's arguments: argument of the pipeline to a path, or to a list of them."""
    given = {name: values.pop(name) for name in IMAGE_FILES}
    for name in ("image", "image_reference"):
        if given[name] is not None and len(given[name]) == 1:
            (given[name],) = given[name]
    return {name: list(path) if isinstance(path, tuple) else path for name, path in given.items() if path}


def read_images(paths: Mapping[str, Path | list[Path]], known: Collection[str]) -> dict[str, Any]:
    """Read images: argument of the pipeline to PIL image, or to a list of them.

    Args:
        paths: Name in `IMAGE_FILES` to a file, or to several.
        known: Arguments of the pipeline; Redux in a chain names the images of a prior `prior_image`.

    Raises:
        InputError: A file that cannot be read as one.
    """
    found: dict[str, Any] = {
        name: [read_image_file(one, IMAGE_FILES[name]) for one in path]
        if isinstance(path, list)
        else read_image_file(path, IMAGE_FILES[name])
        for name, path in paths.items()
    }
    if "images" in found and "images" not in known and "prior_image" in known:
        found["prior_image"] = found.pop("images")
    return found
