"""Score the upscaler: how near its images of 256 pixels are to the originals, and how near plain enlargement is.

    python models/emoji-x4/score.py                          # the shipped weights
    python models/emoji-x4/score.py my-x4 --source base --json --grid grid.png

Source `held-out`: originals of emoji that training did not use, scaled down to 64 pixels. Source `base`: images that
the base generates from "a {label}", compared with the originals of these labels, which training used. Peak
signal-to-noise ratio in dB and structural similarity (Wang et al. 2004, windows of 11 x 11), means over the images.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.errors import InputError
from diffoundry_models.emoji.score import generate, open_pipeline
from diffoundry_models.emoji.training.command import add_generation, add_shared, positive, report, run

if TYPE_CHECKING:
    import torch

__all__ = ["main", "psnr", "similarity", "upscale"]

_HERE = Path(__file__).resolve().parent
_BASE = _HERE.parent / "emoji"
_RADIUS, _SIGMA = 5, 1.5
_PEAK = 2.0
_STABLE = ((0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", default=_HERE, help="checkpoint folder (default: the shipped weights)")
    add("--base", type=Path, default=_BASE, help="the checkpoint whose images are upscaled (default: models/emoji)")
    add("--source", choices=["held-out", "base"], default="held-out", help="images to upscale (default: %(default)s)")
    add_shared(parser)
    add_generation(parser)
    add("--upscale-steps", type=positive(int), default=8, help="steps of the upscaler (default: %(default)s)")
    add("--upscale-guidance", type=float, default=1.0, help="guidance of the upscaler (default: %(default)s)")
    add("--noise-level", type=int, default=20, help="noise added to the small images (default: %(default)s)")
    add("--count", type=positive(int), help="score that many images, evenly spread; default: all")
    add("--grid", type=Path, metavar="FILE", help="write rows: enlarged by Lanczos, upscaled, original; 8 in a row")
    return run("Scoring", _score, parser.parse_args(arguments))


def upscale(
    pipeline: Any, small: "torch.Tensor", prompts: Sequence[str], options: argparse.Namespace
) -> "torch.Tensor":
    """Upscale every image from the same seed.

    Args:
        pipeline: diffusers' StableDiffusionUpscalePipeline.
        small: float32 (N, 3, H, W), -1 to 1.
        prompts: N of them.
        options: of the command.

    Returns:
        float32 (N, 3, 4 H, 4 W), -1 to 1.
    """
    import torch

    large: list[torch.Tensor] = []
    for start in range(0, len(small), options.batch):
        part = small[start : start + options.batch]
        output = pipeline(
            list(prompts[start : start + options.batch]),
            (part + 1) / 2,
            num_inference_steps=options.upscale_steps,
            guidance_scale=options.upscale_guidance,
            noise_level=options.noise_level,
            generator=[torch.Generator().manual_seed(options.seed) for _ in part],
            output_type="pt",
        )
        large.append(output.images.float().cpu() * 2 - 1)
        report(f"upscaled {start + len(part)} of {len(small)}")
    return torch.cat(large)


def psnr(output: "torch.Tensor", target: "torch.Tensor") -> "torch.Tensor":
    """Compute the peak signal-to-noise ratio of each image in dB, float32 (N,); values from -1 to 1."""
    import torch

    return 10 * torch.log10(_PEAK**2 / (output - target).square().mean((1, 2, 3)))


def similarity(output: "torch.Tensor", target: "torch.Tensor") -> "torch.Tensor":
    """Compute the structural similarity of each image, float32 (N,), 1 for equal ones; values from -1 to 1.

    Wang et al. 2004, equation 13: Gaussian windows of 11 x 11 with a standard deviation of 1.5, inside the image only,
    mean over windows and channels.
    """
    import torch
    from torch.nn import functional

    line = torch.exp(-0.5 * (torch.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def local(values: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(values.flatten(0, 1)[:, None], window).view(*values.shape[:2], -1)

    mean, other = local(output), local(target)
    variances = local(output.square()) - mean.square() + local(target.square()) - other.square()
    covariance = local(output * target) - mean * other
    light, contrast = _STABLE
    above = (2 * mean * other + light) * (2 * covariance + contrast)
    below = (mean.square() + other.square() + light) * (variances + contrast)
    return (above / below).mean((1, 2))


def _score(options: argparse.Namespace) -> None:
    import torch

    from diffoundry_models.emoji.training import data
    from diffoundry_models.emoji.training.upscaler import split
    from diffoundry_models.emoji.training.upscaler_vae import encode_large, large_images, to_float

    labels = data.read_labels(options.base / "captions.json")
    every = data.load_emoji(options.data)
    chosen = data.select(every, labels) if options.source == "base" else split(every, labels)[1]
    unknown = [label for label in options.only or () if label not in {one.label for one in chosen}]
    if unknown:
        raise InputError(f"--only {unknown[0]}: not among the {len(chosen)} labels of --source {options.source}.")
    chosen = [one for one in chosen if not options.only or one.label in options.only]
    chosen = chosen[:: max(1, len(chosen) // (options.count or len(chosen)))][: options.count]
    prompts = [f"a {one.label}" for one in chosen]
    small = data.images(chosen)
    if options.source == "base":
        small = generate(open_pipeline(options.base, options.device), prompts, options)
    stored = large_images(chosen)
    target = to_float(stored)
    pipeline = open_pipeline(options.model, options.device)
    upscaled = upscale(pipeline, small, prompts, options)
    latents = encode_large(pipeline.vae, stored.to(options.device))[0]
    with torch.no_grad():
        decoded = torch.cat([pipeline.vae.decode(part).sample for part in torch.split(latents, 4)])
    outputs = {
        "upscaler": upscaled,
        "bicubic": _enlarge(small, "BICUBIC"),
        "lanczos": _enlarge(small, "LANCZOS"),
        "autoencoder alone": decoded.cpu().clamp(-1, 1),
    }
    if options.grid:
        _write_grid([outputs["lanczos"], upscaled, target], options.grid)
    result: dict[str, Any] = {"model": str(options.model), "source": options.source, "images": len(chosen)}
    for name, output in outputs.items():
        levels = {"psnr_db": psnr(output, target).mean(), "ssim": similarity(output, target).mean()}
        result[name] = {key: round(float(value), 3) for key, value in levels.items()}
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


def _enlarge(small: "torch.Tensor", filter_name: str) -> "torch.Tensor":
    """Enlarge images four times with Pillow, float32 (N, 3, 4 H, 4 W)."""
    import numpy as np
    import torch
    from PIL import Image

    from diffoundry_models.emoji.training.upscaler_vae import FACTOR, to_float

    values = ((small + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    size = (FACTOR * small.shape[3], FACTOR * small.shape[2])
    large = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling[filter_name])) for one in values]
    return to_float(torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2))


def _write_grid(kinds: Sequence["torch.Tensor"], file: Path, columns: int = 8) -> None:
    """Write one row for each kind of image, `columns` images wide, and so on below."""
    import torch
    from PIL import Image

    rows = []
    for start in range(0, len(kinds[0]), columns):
        for images in kinds:
            row = torch.ones((columns, *images.shape[1:]))
            row[: len(images) - start] = images[start : start + columns]
            rows.append(torch.cat(list(row), dim=2))
    values = ((torch.cat(rows, dim=1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    Image.fromarray(values.permute(1, 2, 0).numpy()).save(file, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
