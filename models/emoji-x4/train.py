"""Train the upscaler: its autoencoder, then the UNet that generates latents of 256 pixels from images of 64.

    pip install './models[train]'
    python models/emoji-x4/train.py --out my-x4
    python models/emoji-x4/train.py --out my-x4 --resume     # continue where it was stopped
    python models/emoji-x4/train.py --out finer --init models/emoji-x4 --stage unet --lr 2e-4 --steps 2000

The images and labels are fetched with `npm pack`. OUT becomes a checkpoint of StableDiffusionUpscalePipeline;
the state for `--resume` lies in OUT/checkpoints.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffoundry_models.emoji.training.command import add_schedule, add_shared, run

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent
_BASE = _HERE.parent / "emoji"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--stage", choices=["vae", "unet", "all"], default="all", help="what to train (default: both)")
    add("--out", type=Path, required=True, help="the checkpoint folder to make")
    add("--base", type=Path, default=_BASE, help="the checkpoint whose images are upscaled (default: models/emoji)")
    add_shared(parser)
    add("--init", type=Path, help="a checkpoint folder to start from; default: from scratch")
    add_schedule(parser)
    return run("Training", _train, parser.parse_args(arguments))


def _train(options: argparse.Namespace) -> None:
    # Here, not above: --help and the message about a missing extra must not need torch.
    from diffoundry_models.emoji.training.upscaler import train_upscaler

    train_upscaler(options, _HERE)


if __name__ == "__main__":
    sys.exit(main())
