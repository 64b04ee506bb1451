"""Train the pixel model: an unconditional DDPM on small images of emoji.

    pip install './models[train]'
    python models/emoji-pixels/train.py --out my-pixels
    python models/emoji-pixels/train.py --out my-pixels --resume     # continue where it was stopped
    python models/emoji-pixels/train.py --out finer --init models/emoji-pixels --lr 2e-4 --steps 2000

The images are fetched with `npm pack`. OUT becomes a checkpoint of diffusers' DDPMPipeline; the state for `--resume`
lies in OUT/checkpoints.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffoundry_models.emoji.training.command import add_schedule, add_shared, run

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint folder to make")
    add_shared(parser)
    parser.add_argument("--init", type=Path, help="a checkpoint folder to start from; default: from scratch")
    add_schedule(parser)
    return run("Training", _train, parser.parse_args(arguments), needs=("torch", "diffusers"))


def _train(options: argparse.Namespace) -> None:
    # Here, not above: --help and the message about a missing extra must not need torch.
    from diffoundry_models.emoji.training.pixels import train_pixels

    train_pixels(options, _HERE)


if __name__ == "__main__":
    sys.exit(main())
