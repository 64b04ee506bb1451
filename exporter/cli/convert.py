"""`diffoundry convert`: rewrites pickled weights as safetensors."""

import os
from pathlib import Path

import click

from diffoundry.runtime.cli.console import out
from diffoundry.runtime.cli.help import Command, options_in

__all__ = ["command"]

_output = options_in("Output")

_EXAMPLES = (
    "diffoundry convert old-checkpoint/ -o new-checkpoint/",
    "diffoundry convert model.ckpt -o model.safetensors",
    "diffoundry convert learned_embeds.bin -o learned_embeds.safetensors",
)


@click.command("convert", cls=Command, examples=_EXAMPLES)
@click.argument("source", type=click.Path(path_type=Path), metavar="MODEL")
@_output(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="NEW", help="The new file or folder."
)
def command(source: Path, output: Path) -> None:
    """Rewrite pickled weights (.bin, .ckpt, .pt) as safetensors.

    MODEL is a file, or a checkpoint's folder in diffusers' layout. Only tensors and plain values are read, so no code
    in the file runs; a file that holds anything else is refused.
    """
    from diffoundry.exporter.checkpoints.convert import convert  # imports torch

    convert(source, output, lambda path: out.print(os.fspath(path), markup=False, soft_wrap=True))
