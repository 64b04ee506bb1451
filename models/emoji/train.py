"""Train the emoji model: tokenizer, autoencoder, its decoder alone, then text encoder and UNet.

    pip install './models[train]'
    python models/emoji/train.py --out my-emoji                            # all stages, from scratch
    python models/emoji/train.py --out my-emoji --resume                   # continue where it was stopped
    python models/emoji/train.py --out better --init models/emoji --stage denoiser --lr 1e-4 --steps 2000

The images and labels are fetched with `npm pack`. OUT becomes a checkpoint in diffusers' layout; the state for
`--resume` lies in OUT/checkpoints. `--steps`, `--batch`, `--lr`, `--warmup` and `--seed` determine the weights: on
a processor with the same number of threads, a run stopped and resumed gives the same weights, bit for bit, as an
uninterrupted one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffoundry_models.emoji.training.command import add_schedule, add_shared, report, run

__all__ = ["main"]

_STAGES = ("tokenizer", "vae", "vae-decoder", "denoiser")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    return run("Training", _train, _parser().parse_args(arguments))


def _train(options: argparse.Namespace) -> None:
    # Here, not above: --help and the message about a missing extra must not need torch.
    from diffoundry_models.emoji.training import data
    from diffoundry_models.emoji.training.checkpoint import SHIPPED, prepare_folder
    from diffoundry_models.emoji.training.loop import Session
    from diffoundry_models.emoji.training.stages import make_tokenizer, run_stage
    from diffoundry_models.emoji.training.workspace import Workspace

    every = data.load_emoji(options.data)
    shipped = options.labels == "shipped"
    emoji = data.select(every, data.read_labels(SHIPPED / "captions.json")) if shipped else every
    prepare_folder(options.out, options.init)
    data.write_captions(emoji, options.out / "captions.json")
    space = Workspace(
        out=options.out,
        init=options.init,
        architecture=SHIPPED,
        emoji=emoji,
        images=data.images(emoji).to(options.device),
    )
    session = Session(resume=options.resume, minutes=options.minutes, save_every=options.save_every, report=report)
    names = ("steps", "batch", "lr", "warmup", "seed")
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    for stage in _STAGES if options.stage == "all" else (options.stage,):
        if stage == "tokenizer":
            make_tokenizer(options.out, every, report)
        elif not run_stage(stage, space, session, changes):
            break


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--stage", choices=[*_STAGES, "all"], default="all", help="what to train (default: all, in this order)")
    add("--out", type=Path, required=True, help="the checkpoint folder to make")
    add_shared(parser)
    add("--init", type=Path, help="a checkpoint folder to start from; default: from scratch")
    add("--labels", choices=["shipped", "all"], default="shipped", help="263 emoji, or all 1,377 of one code point")
    add_schedule(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
