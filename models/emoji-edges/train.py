"""Train the ControlNet that makes the emoji model follow edges, after an encoder for its training.

    pip install './models[train]'
    python models/emoji-edges/train.py --out my-edges --device cuda
    python models/emoji-edges/train.py --out my-edges --device cuda --resume     # continue where it was stopped

The images and labels are fetched with `npm pack`. OUT becomes a folder of diffusers' ControlNetModel; the encoder,
and the state for `--resume`, lie in OUT/checkpoints.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffoundry_models.emoji.training.command import add_schedule, add_shared, run

__all__ = ["main"]

_BASE = Path(__file__).resolve().parent.parent / "emoji"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--stage", choices=["encoder", "controlnet", "all"], default="all", help="what to train (default: both)")
    add("--out", type=Path, required=True, help="the folder to make")
    add("--base", type=Path, default=_BASE, help="the checkpoint that is guided (default: models/emoji)")
    add_shared(parser)
    add_schedule(parser)
    return run("Training", _train, parser.parse_args(arguments))


def _train(options: argparse.Namespace) -> None:
    # Here, not above: --help and the message about a missing extra must not need torch.
    from diffoundry_models.emoji.training.companions import train_edges

    train_edges(options)


if __name__ == "__main__":
    sys.exit(main())
