"""Options of `generate` that reduce the VAE's memory."""

from collections.abc import Callable
from typing import Any, TypeVar

from diffoundry.runtime.cli.console import remark
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.vae_tiling import VaeTilingMixin
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["VAE_SETTINGS", "take_vae_settings", "vae_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

VAE_SETTINGS = ("vae_tiling", "vae_tile_size", "vae_slicing")
"""Their names in the settings of an image."""


_memory = options_in("Memory")


def vae_options(command: Command) -> Command:
    """Add --vae-tiling, --vae-tile-size and --vae-slicing."""
    for option in (
        _memory(
            "--vae-slicing/--no-vae-slicing", default=None,
            help="Decode one image at a time.  [default: off]",
        ),
        _memory(
            "--vae-tile-size", metavar="PIXELS", type=int, also=("--tile-sample-min-size",),
            help="Side of a tile, with --vae-tiling.  [default: the VAE's sample_size, mostly 512]",
        ),
        _memory(
            "--vae-tiling/--no-vae-tiling", default=None,
            help="Decode large images in tiles. Changes the image.  [default: off]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def take_vae_settings(pipeline: PipelineBase, settings: dict[str, Any]) -> dict[str, Any]:
    """Move the VAE's options out of the settings of an image, and apply them to the pipeline.

    Returns:
        Name to True for each that is on, and the size of a tile.

    Raises:
        InputError: As `AutoencoderKL.enable_tiling`, or the pipeline has no VAE, or a size of tiles has no tiles.
    """
    given = {name: settings.pop(name, None) for name in VAE_SETTINGS}
    wanted = {name: value for name, value in given.items() if value is not None and value is not False}
    if "vae_tile_size" in wanted and "vae_tiling" not in wanted:
        raise InputError(
            f"--vae-tile-size: got {wanted['vae_tile_size']} without --vae-tiling, which cuts the tiles; pass both"
        )
    vae = getattr(pipeline, "vae", None)
    if not wanted:
        return wanted
    if not isinstance(vae, VaeTilingMixin):
        option = f"--{next(iter(wanted)).replace('_', '-')}"
        raise InputError(f"{option}: a {pipeline.session.bundle.pipeline_class} has no VAE that it fits; leave it out")
    if "vae_tiling" in wanted:
        vae.enable_tiling(wanted.get("vae_tile_size"))
        remark("VAE tiling: an image larger than a tile differs from the one without tiling")
    if "vae_slicing" in wanted:
        vae.enable_slicing()
    return wanted
