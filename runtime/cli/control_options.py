"""Options of `generate` for ControlNets; what is repeated is meant one for each ControlNet, in the bundle's order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.pipeline_options import read_images

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
    """None of none, the only number itself, a list of several."""
    return None if not values else values[0] if len(values) == 1 else list(values)


_OPTIONS = (
    click.option(
        "--control-image", "control_image", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
        help="Show this to a ControlNet, prepared as it was trained (edges, depth ...); one for each.",
    ),
    click.option(
        "--control-scale", "controlnet_conditioning_scale", type=float, multiple=True, callback=_numbers,
        help="How much a ControlNet counts.  [default: 1, with --image 0.8, with --mask 0.5 or of XL 1]",
    ),
    click.option(
        "--control-start", "control_guidance_start", type=float, multiple=True, callback=_numbers,
        help="Fraction of the steps at which it begins.  [default: 0]",
    ),
    click.option(
        "--control-end", "control_guidance_end", type=float, multiple=True, callback=_numbers,
        help="Fraction of the steps at which it ends.  [default: 1]",
    ),
    click.option(
        "--guess-mode/--no-guess-mode", default=None,
        help="ControlNets go by their image alone, not by the negative prompt.  [default: off]",
    ),
)  # fmt: skip


def control_options(command: Command) -> Command:
    """Add them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_controls(paths: Sequence[Path]) -> dict[str, Any]:
    """The pipeline's argument: a PIL image, a list of several, or nothing.

    Raises:
        InputError: A file that cannot be read as an image.
    """
    images = [read_images({"control_image": path})["control_image"] for path in paths]
    return {} if not images else {"control_image": images[0] if len(images) == 1 else images}
