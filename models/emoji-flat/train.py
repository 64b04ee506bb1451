"""Train the LoRA that makes the emoji model generate flat images.

    pip install './models[train]'
    python models/emoji-flat/train.py --out my-flat --device cuda
    python models/emoji-flat/train.py --out my-flat --device cuda --resume       # continue where it was stopped

The images and labels are fetched with `npm pack`. OUT gets `pytorch_lora_weights.safetensors`; the state for
`--resume` lies in OUT/checkpoints.
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
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument(
        "--base", type=Path, default=_BASE, help="the checkpoint that is changed (default: models/emoji)"
    )
    add_shared(parser)
    add_schedule(parser)
    return run("Training", _train, parser.parse_args(arguments), needs=("torch", "diffusers", "transformers", "peft"))


def _train(options: argparse.Namespace) -> None:
    # Here, not above: --help and the message about a missing extra must not need torch.
    from diffoundry_models.emoji.training.companions import train_flat

    train_flat(options)


if __name__ == "__main__":
    sys.exit(main())
