"""Options of `generate` for T2I-Adapters. A repeated option sets one value an adapter, in the bundle's order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.control_options import one_or_list
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.images.read import read_array_file, read_image_file

__all__ = ["T2I_ADAPTER_SETTINGS", "read_adapter_images", "t2i_adapter_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

T2I_ADAPTER_SETTINGS = ("adapter_conditioning_scale", "adapter_conditioning_factor")
"""Their names as arguments of a pipeline, without the images."""

_adapter = options_in("T2I-Adapter")

_OPTIONS = (
    _adapter(
        "--adapter-image", "adapter_image", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
        help="Image for a T2I-Adapter, prepared as in its training (sketch, depth ...), or a .npy array of floats. "
        "Repeat for each.",
    ),
    _adapter(
        "--adapter-scale", "adapter_conditioning_scale", type=float, multiple=True, callback=one_or_list,
        also=("--adapter-conditioning-scale",),
        help="Weight of a T2I-Adapter.  [default: 1; of several an equal part]",
    ),
    _adapter(
        "--adapter-end", "adapter_conditioning_factor", type=float, also=("--adapter-conditioning-factor",),
        help="Fraction of the steps at which T2I-Adapters end.  [default: 1]",
    ),
)  # fmt: skip


def t2i_adapter_options(command: Command) -> Command:
    """Add the options for T2I-Adapters."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_adapter_images(paths: Sequence[Path]) -> dict[str, Any]:
    """Read the images of T2I-Adapters as the pipeline's argument: an image, a list of several, or nothing.

    Args:
        paths: Image files, and .npy files of arrays (height, width, channels).

    Raises:
        InputError: A file that cannot be read.
    """
    images = [_read(path) for path in paths]
    return {} if not images else {"adapter_image": images[0] if len(images) == 1 else images}


def _read(path: Path) -> Any:
    """Return a PIL image, or a float32 array (height, width, channels)."""
    option = "--adapter-image"
    array = path.suffix.lower() == ".npy"
    return read_array_file(path, option, channels=(1, 3)) if array else read_image_file(path, option)
