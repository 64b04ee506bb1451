"""Score the LoRA for flat images: distance of the images to the flat ones, with and without it.

    python models/emoji-flat/score.py                        # the shipped weights
    python models/emoji-flat/score.py my-flat --scales 0 0.5 1 --json

For every label the base generates "a {label}" from one seed, at each scale of the LoRA. Distances are mean squared
errors at 32 x 32 pixels, values from -1 to 1, as in models/emoji/score.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffoundry_models.emoji.score import generate, nearest, open_pipeline, write_grid
from diffoundry_models.emoji.training.command import add_generation, add_shared, run

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent
_BASE = _HERE.parent / "emoji"
_THUMBNAIL = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", default=_HERE, help="folder of the LoRA (default: the shipped one)")
    add("--base", type=Path, default=_BASE, help="the checkpoint (default: models/emoji)")
    add_shared(parser)
    add_generation(parser)
    add("--scales", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    add("--thumbnails", type=Path, metavar="FILE", help="write the flat images, 16 x 16 pixels each, as one sheet")
    return run("Scoring", _score, parser.parse_args(arguments), needs=("torch", "diffusers", "transformers", "peft"))


def _score(options: argparse.Namespace) -> None:
    import torch
    from torch.nn import functional

    from diffoundry_models.emoji.training import data

    labels = data.read_labels(options.base / "captions.json")
    emoji = data.select(data.load_emoji(options.data), options.only or labels)
    solid, flat = data.images(emoji), data.images(data.flat_emoji(emoji, options.data))
    if options.thumbnails:
        write_grid(functional.interpolate(flat, size=(_THUMBNAIL, _THUMBNAIL), mode="area"), options.thumbnails)
    pipeline = open_pipeline(options.base, options.device)
    pipeline.load_lora_weights(str(options.model), adapter_name="flat")
    result: dict[str, Any] = {}
    for scale in options.scales:
        pipeline.set_adapters("flat", scale)
        generated = generate(pipeline, [f"a {one.label}" for one in emoji], options)
        to_flat, to_solid = nearest(generated, flat), nearest(generated, solid)
        own, base = to_flat.diagonal(), to_solid.diagonal()
        result[str(scale)] = {
            "to_flat": round(float(own.mean()), 4),
            "to_3d": round(float(base.mean()), 4),
            "nearer_to_flat_percent": round(100 * float((own < base).float().mean()), 1),
            "named_percent": round(100 * float((to_flat.argmin(1) == torch.arange(len(emoji))).float().mean()), 1),
        }
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    sys.exit(main())
