"""Options of `generate` for ControlNets. A repeated option sets one value a ControlNet, in the bundle's order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.read import is_transparent, read_array_file, read_image_file

__all__ = ["CONTROL_SETTINGS", "control_options", "one_or_list", "read_controls"]

Command = TypeVar("Command", bound=Callable[..., Any])

CONTROL_SETTINGS = (
    "controlnet_conditioning_scale",
    "control_guidance_start",
    "control_guidance_end",
    "guess_mode",
    "control_mode",
)
"""Their names as arguments of a pipeline, without the images."""


def one_or_list(_context: click.Context, _parameter: click.Parameter, values: Sequence[float]) -> Any:
    """Return None for no value, the number for one, and a list for several."""
    return None if not values else values[0] if len(values) == 1 else list(values)


_control = options_in("ControlNet")

_OPTIONS = (
    _control(
        "--control-image", "control_image", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
        help="Image for a ControlNet, prepared as in its training (edges, depth ...), or a .npy array of floats. "
        "Repeat for each.",
    ),
    _control(
        "--control-mask", "control_mask", type=click.Path(path_type=Path), metavar="FILE",
        help="Inpainting ControlNet: mask of --control-image, white where the image is generated.",
    ),
    _control(
        "--control-scale", "controlnet_conditioning_scale", type=float, multiple=True, callback=one_or_list,
        also=("--controlnet-conditioning-scale",),
        help="Weight of a ControlNet.  [default: 1; with --image 0.8; with --mask 0.5, of XL 1]",
    ),
    _control(
        "--control-start", "control_guidance_start", type=float, multiple=True, callback=one_or_list,
        also=("--control-guidance-start",),
        help="Fraction of the steps at which a ControlNet begins.  [default: 0]",
    ),
    _control(
        "--control-end", "control_guidance_end", type=float, multiple=True, callback=one_or_list,
        also=("--control-guidance-end",),
        help="Fraction of the steps at which a ControlNet ends.  [default: 1]",
    ),
    _control(
        "--guess-mode/--no-guess-mode", default=None,
        help="Guess mode: ControlNets ignore the negative prompt.  [default: off]",
    ),
    _control(
        "--control-mode", "control_mode", type=int, multiple=True, callback=one_or_list,
        help="Union ControlNet: number of the kind of --control-image. Repeat for several images of one union.",
    ),
)  # fmt: skip


def control_options(command: Command) -> Command:
    """Add the options for ControlNets."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_controls(paths: Sequence[Path], mask: Path | None = None, *, apart: bool = False) -> dict[str, Any]:
    """Read the images of ControlNets as the pipeline's argument: an image, a list of several, or nothing.

    Args:
        paths: Image files, and .npy files of arrays (height, width, 3).
        mask: White where the image gets -1; diffusers: `make_inpaint_condition` of control_v11p_sd15_inpaint's page.
        apart: True if the ControlNets take the mask as an argument of its own, as those of Stable Diffusion 3 do.

    Raises:
        InputError: A file that cannot be read, or a mask without the one image that it belongs to.
    """
    images = [_read(path) for path in paths]
    masks = {"control_mask": read_image_file(mask, "--control-mask")} if mask is not None and apart else {}
    if mask is not None and not apart:
        if len(images) != 1:
            raise InputError(
                f"--control-mask: got {len(images)} images for ControlNets, expected one --control-image; write the "
                f"masked image of several into a .npy file, with -1 where the mask is white"
            )
        images = [_masked(images[0], mask)]
    return {**masks, **({"control_image": images[0] if len(images) == 1 else images} if images else {})}


def _read(path: Path) -> Any:
    """Return a PIL image, or the float32 array (height, width, 3) of a .npy file."""
    option = "--control-image"
    return read_array_file(path, option) if path.suffix.lower() == ".npy" else read_image_file(path, option)


def _masked(image: Any, path: Path) -> Any:
    """Return float32 (height, width, 3) in 0..1, and -1 where the mask is white."""
    pixels = image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB")).astype(np.float32) / 255
    mask = read_image_file(path, "--control-mask")
    if mask.size != (pixels.shape[1], pixels.shape[0]):
        raise InputError(
            f"--control-mask {path}: got {mask.width} x {mask.height} pixels, expected those of --control-image, "
            f"{pixels.shape[1]} x {pixels.shape[0]}"
        )
    if is_transparent(mask):
        raise InputError(f"--control-mask {path}: got an image with transparency, expected white on black")
    white = np.asarray(mask.convert("L")).astype(np.float32) / 255 > 0.5
    return np.where(white[..., None], np.float32(-1), pixels)
