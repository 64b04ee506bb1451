"""Score the ControlNet for edges: how well images follow the edges of its control image.

    python models/emoji-edges/score.py                       # the shipped weights
    python models/emoji-edges/score.py my-edges --scales 0 0.5 1 --json

Every label's image is moved at random (mirrored, turned, scaled, shifted), as in training but from another seed; the
base generates "a {label}" with the moved image's edges, at each scale of the ControlNet. Overlap: see `overlap` in
models/emoji/training/edges.py. Distance: mean squared error to the moved image, at 32 x 32, values from -1 to 1.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffoundry_models.emoji.score import generate, nearest
from diffoundry_models.emoji.training.command import add_generation, add_shared, run

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent
_BASE = _HERE.parent / "emoji"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", default=_HERE, help="folder of the ControlNet (default: the shipped one)")
    add("--base", type=Path, default=_BASE, help="the checkpoint (default: models/emoji)")
    add_shared(parser)
    add_generation(parser)
    add("--scales", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    add("--moved", type=int, default=123, help="seed of the images' motion (default: %(default)s)")
    return run("Scoring", _score, parser.parse_args(arguments))


def _score(options: argparse.Namespace) -> None:
    import functools

    import torch

    from diffoundry_models.emoji.training import data
    from diffoundry_models.emoji.training.edges import edges, overlap
    from diffoundry_models.emoji.training.motion import FACTOR, draw_motion, move

    labels = data.read_labels(options.base / "captions.json")
    emoji = data.select(data.load_emoji(options.data), options.only or labels)
    maps = draw_motion(len(emoji), torch.Generator().manual_seed(options.moved))
    moved = move(data.images(emoji, FACTOR), maps)
    lines = edges(moved)
    pipeline = _open(options)
    result: dict[str, Any] = {}
    for scale in options.scales:
        scaled = functools.partial(pipeline, controlnet_conditioning_scale=scale)
        generated = generate(scaled, [f"a {one.label}" for one in emoji], options, image=lines.expand(-1, 3, -1, -1))
        result[str(scale)] = {
            "overlap": round(float(overlap(edges(generated), lines).mean()), 3),
            "mse": round(float(nearest(generated, moved).diagonal().mean()), 4),
        }
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


def _open(options: argparse.Namespace) -> Any:
    import torch
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    controlnet = ControlNetModel.from_pretrained(options.model, torch_dtype=torch.float32, use_safetensors=True)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        options.base, controlnet=controlnet, torch_dtype=torch.float32, safety_checker=None, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(options.device)


if __name__ == "__main__":
    sys.exit(main())
