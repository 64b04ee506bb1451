"""Train the transformer of Stable Diffusion 3's kind over autoencoder and text encoder of the emoji model.

    pip install './models[train]'
    python models/emoji-dit/train.py --out my-dit
    python models/emoji-dit/train.py --out my-dit --resume     # continue where it was stopped
    python models/emoji-dit/train.py --out finer --init models/emoji-dit --lr 2e-4 --steps 2000

The images and labels are fetched with `npm pack`. OUT becomes a checkpoint of StableDiffusion3Pipeline; the state
for `--resume` lies in OUT/checkpoints.
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
    add("--out", type=Path, required=True, help="the checkpoint folder to make")
    add("--base", type=Path, default=_BASE, help="the checkpoint that lends the other parts (default: models/emoji)")
    add_shared(parser)
    add("--init", type=Path, help="a checkpoint folder to start from; default: from scratch")
    add_schedule(parser)
    return run("Training", _train, parser.parse_args(arguments))


def _train(options: argparse.Namespace) -> None:
    # Here, not above: --help and the message about a missing extra must not need torch.
    from diffoundry_models.emoji.training.joint_transformer import train_transformer

    train_transformer(options, _HERE)


if __name__ == "__main__":
    sys.exit(main())
