"""Options of `generate` for ControlNets. A repeated option sets one value a ControlNet, in the bundle's order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.images.read import read_image_file

__all__ = ["CONTROL_SETTINGS", "control_options", "read_controls"]

Command = TypeVar("Command", bound=Callable[..., Any])

CONTROL_SETTINGS = (
    "controlnet_conditioning_scale",
    "control_guidance_start",
    "control_guidance_end",
    "guess_mode",
)
"""Their names as arguments of a pipeline, without the images."""


def _numbers(_context: click.Context, _parameter: click.Parameter, values: Sequence[float]) -> Any:
    """Return None for no value, the number for one, and a list for several."""
    return None if not values else values[0] if len(values) == 1 else list(values)


_control = options_in("ControlNet")

_OPTIONS = (
    _control(
        "--control-image", "control_image", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
        help="Image for a ControlNet, prepared as in its training (edges, depth ...). Repeat for each.",
    ),
    _control(
        "--control-scale", "controlnet_conditioning_scale", type=float, multiple=True, callback=_numbers,
        help="Weight of a ControlNet.  [default: 1; with --image 0.8; with --mask 0.5, of XL 1]",
    ),
    _control(
        "--control-start", "control_guidance_start", type=float, multiple=True, callback=_numbers,
        help="Fraction of the steps at which a ControlNet begins.  [default: 0]",
    ),
    _control(
        "--control-end", "control_guidance_end", type=float, multiple=True, callback=_numbers,
        help="Fraction of the steps at which a ControlNet ends.  [default: 1]",
    ),
    _control(
        "--guess-mode/--no-guess-mode", default=None,
        help="Guess mode: ControlNets ignore the negative prompt.  [default: off]",
    ),
)  # fmt: skip


def control_options(command: Command) -> Command:
    """Add the options for ControlNets."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_controls(paths: Sequence[Path]) -> dict[str, Any]:
    """Read the images of ControlNets as the pipeline's argument: a PIL image, a list of several, or nothing.

    Raises:
        InputError: A file that cannot be read as an image.
    """
    images = [read_image_file(path, "--control-image") for path in paths]
    return {} if not images else {"control_image": images[0] if len(images) == 1 else images}
