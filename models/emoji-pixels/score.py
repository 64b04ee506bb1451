"""Score the pixel model: how near its images are to the training images, and how many of those it generates.

    python models/emoji-pixels/score.py                       # the shipped weights
    python models/emoji-pixels/score.py my-pixels --count 64 --steps 100 --json --grid grid.png

Distance: mean squared error to the nearest training image at 32 x 32, values from -1 to 1, 1 is white. For comparison
the same of each training image to its nearest other one. Kinds: training images that are nearest to at least one.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffoundry_models.emoji.score import nearest, open_pipeline, write_grid
from diffoundry_models.emoji.training.command import add_shared, positive, report, run

if TYPE_CHECKING:
    import torch

__all__ = ["generate", "main", "score"]

_HERE = Path(__file__).resolve().parent
_THUMBNAIL = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", default=_HERE, help="checkpoint folder (default: the shipped weights)")
    add_shared(parser)
    add("--count", type=positive(int), default=128, help="images to generate (default: %(default)s)")
    add("--steps", type=positive(int), default=100, help="steps of the checkpoint's scheduler (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the first image; each has the next (default: %(default)s)")
    add("--batch", type=positive(int), default=32, help="images at once (default: %(default)s)")
    add("--grid", type=Path, metavar="FILE", help="write the generated images as one sheet, 16 in a row")
    add("--thumbnails", type=Path, metavar="FILE", help="write the known images, 16 x 16 pixels each, as one sheet")
    add("--json", action="store_true", help="print the score as JSON")
    return run("Scoring", _score, parser.parse_args(arguments), needs=("torch", "diffusers"))


def generate(pipeline: Any, options: argparse.Namespace) -> "torch.Tensor":
    """Generate `options.count` images, each from a seed of its own, so that the batch size changes nothing.

    Returns:
        float32 (N, 3, 32, 32), -1 to 1.
    """
    import torch

    generated: list[torch.Tensor] = []
    for start in range(0, options.count, options.batch):
        seeds = range(options.seed + start, options.seed + min(start + options.batch, options.count))
        output = pipeline(
            batch_size=len(seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=options.steps,
            output_type="pt",
        )
        generated.append(output.images.float().cpu() * 2 - 1)
        report(f"generated {start + len(seeds)} of {options.count}")
    return torch.cat(generated)


def score(generated: "torch.Tensor", known: "torch.Tensor") -> dict[str, Any]:
    """Summarize the distances to the training images.

    Args:
        generated: float32 (N, 3, H, W), -1 to 1.
        known: float32 (M, 3, h, w), -1 to 1.
    """
    near = nearest(generated, known).min(dim=1)
    between = nearest(known, known).fill_diagonal_(float("inf")).min(dim=1).values
    return {
        "images": len(generated),
        "mse": round(float(near.values.mean()), 4),
        "mse_median": round(float(near.values.median()), 4),
        "mse_between_training_images": round(float(between.mean()), 4),
        "kinds": len(near.indices.unique()),
        "of_kinds": len(known),
    }


def _score(options: argparse.Namespace) -> None:
    import torch
    from torch.nn import functional

    from diffoundry_models.emoji.training import data

    pipeline = open_pipeline(options.model, options.device)
    labels = data.read_labels(options.model / "captions.json")
    known = data.images(data.select(data.load_emoji(options.data), labels))
    generated = generate(pipeline, options)
    if options.thumbnails:
        write_grid(functional.interpolate(known, size=(_THUMBNAIL, _THUMBNAIL), mode="area"), options.thumbnails)
    if options.grid:
        write_grid(generated, options.grid)
    settings = {name: getattr(options, name) for name in ("steps", "seed")}
    result = {
        "model": str(options.model),
        "scheduler": type(pipeline.scheduler).__name__,
        "torch": torch.__version__,
        **settings,
        **score(generated, known),
    }
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    sys.exit(main())
