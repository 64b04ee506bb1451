"""Options of `generate` that keep the VAE's memory small."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.console import remark
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["VAE_SETTINGS", "take_vae_settings", "vae_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

VAE_SETTINGS = ("vae_tiling", "vae_slicing")
"""Their names in the settings of an image."""


def vae_options(command: Command) -> Command:
    """Add them."""
    for option in (
        click.option(
            "--vae-slicing/--no-vae-slicing", default=None,
            help="Several images go through the VAE one by one, in less memory.  [default: off]",
        ),
        click.option(
            "--vae-tiling/--no-vae-tiling", default=None,
            help="Large images go through the VAE in tiles, in less memory; changes the image.  [default: off]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def take_vae_settings(pipeline: DiffusionPipeline, settings: dict[str, Any]) -> dict[str, bool]:
    """Move them out of the settings of an image and let the pipeline go by them; gives those that are on.

    Raises:
        InputError: As `AutoencoderKL.enable_tiling`.
    """
    wanted = {name: True for name in VAE_SETTINGS if settings.pop(name, None)}
    if "vae_tiling" in wanted:
        pipeline.vae.enable_tiling()
        remark("VAE tiling: an image larger than a tile differs from the one without tiling")
    if "vae_slicing" in wanted:
        pipeline.vae.enable_slicing()
    return wanted
