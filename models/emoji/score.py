"""Score an emoji checkpoint: whether it generates the prompt's object, and how closely.

    python models/emoji/score.py                                # the shipped weights
    python models/emoji/score.py my-emoji --json --grid grid.png
    python models/emoji/score.py my-emoji --thumbnails my-emoji/thumbnails.png     # for `diffoundry verify`

For every label the pipeline generates "a {label}" from one seed. Named: the nearest of all training images (mean
squared error at 32 x 32) is the label's own. Works with any checkpoint in diffusers' layout; labels come from its
captions.json, or from the shipped one where it has none.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry_models.emoji.training.command import add_generation, add_shared, report, run

if TYPE_CHECKING:
    import torch

__all__ = ["generate", "main", "nearest", "open_pipeline", "reconstruction_psnr", "score", "write_grid"]

_HERE = Path(__file__).resolve().parent
_COMPARED = 32
_THUMBNAIL = 16
_COLUMNS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    return run("Scoring", _score, _parser().parse_args(arguments))


def open_pipeline(model: Path, device: str) -> Any:
    """Open the diffusers pipeline of a checkpoint folder, in float32.

    Raises:
        CheckpointError: the folder is no checkpoint.
    """
    import torch
    from diffusers import DiffusionPipeline

    if not (model / "model_index.json").is_file():
        raise CheckpointError(f"{model} is not a checkpoint folder: it has no model_index.json.")
    index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    # diffusers takes components as optional only when they are passed as None, such as text_encoder_3.
    lacking = {name: None for name, value in index.items() if value == [None, None]}
    pipeline = DiffusionPipeline.from_pretrained(model, use_safetensors=True, local_files_only=True, **lacking)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device=device, dtype=torch.float32)


def generate(
    pipeline: Any, prompts: Sequence[str], options: argparse.Namespace, **shown: "torch.Tensor"
) -> "torch.Tensor":
    """Generate every prompt from the same seed, so that the batch size changes nothing.

    Args:
        pipeline: a diffusers pipeline.
        prompts: N of them.
        options: `guidance`, `steps`, `seed` and `batch`.
        **shown: further arguments of the pipeline with N rows.

    Returns:
        float32 (N, 3, H, W), -1 to 1.
    """
    import torch

    generated = []
    for start in range(0, len(prompts), options.batch):
        part = list(prompts[start : start + options.batch])
        generators = [torch.Generator().manual_seed(options.seed) for _ in part]
        output = pipeline(
            part,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=generators,
            output_type="pt",
            **{name: rows[start : start + len(part)] for name, rows in shown.items()},
        )
        generated.append(output.images.float().cpu() * 2 - 1)
        report(f"generated {start + len(part)} of {len(prompts)}")
    return torch.cat(generated)


def nearest(generated: "torch.Tensor", known: "torch.Tensor") -> "torch.Tensor":
    """Compute the mean squared error between every generated and known image, both averaged down to 32 x 32.

    Args:
        generated: float32 (N, 3, H, W), -1 to 1.
        known: float32 (M, 3, h, w), -1 to 1.

    Returns:
        float32 (N, M).
    """
    import torch
    from torch.nn import functional

    left, right = (
        functional.interpolate(part, size=(_COMPARED, _COMPARED), mode="area").flatten(1) for part in (generated, known)
    )
    # Row by row: cdist's expansion of the square loses the small distances that matter here.
    return torch.stack([(right - row).square().mean(dim=1) for row in left])


def score(distances: "torch.Tensor", wanted: Sequence[int], labels: Sequence[str]) -> dict[str, Any]:
    """Summarize the distances.

    Args:
        distances: float32 (N, M), from `nearest`.
        wanted: of each generated image, the index of the known one that its prompt names.
        labels: of the M known images.
    """
    import torch

    rows = torch.arange(len(wanted))
    own = distances[rows, torch.tensor(wanted)]
    named = distances.argmin(dim=1).tolist()
    pairs = list(zip(wanted, named, own.tolist(), strict=True))
    hits = sum(want == got for want, got, _ in pairs)
    worst = sorted(pairs, key=lambda pair: -pair[2])[:5]
    return {
        "labels": len(wanted),
        "top1_percent": round(100 * hits / len(wanted), 2),
        "mse": round(float(own.mean()), 5),
        "missed": [{"label": labels[want], "nearest": labels[got]} for want, got, _ in pairs if want != got],
        "worst": [{"label": labels[want], "mse": round(error, 5)} for want, _, error in worst],
    }


def reconstruction_psnr(vae: Any, images: "torch.Tensor") -> float:
    """Compute the peak signal-to-noise ratio, in dB, of images through the autoencoder: of the mean error over all.

    Args:
        vae: diffusers' AutoencoderKL; its latents' mean is decoded.
        images: float32 (N, 3, H, W), -1 to 1, so the peak is 2.
    """
    import torch

    total = 0.0
    with torch.no_grad():
        for part in torch.split(images, 32):
            latents = vae.encode(part.to(vae.device)).latent_dist.mean
            output = vae.decode(latents).sample.clamp(-1, 1).cpu()
            total += float((output - part).square().sum())
    return 10 * float(torch.log10(torch.tensor(4 * images.numel() / total)))


def _score(options: argparse.Namespace) -> None:
    import torch
    from torch.nn import functional

    from diffoundry_models.emoji.training import data

    pipeline = open_pipeline(options.model, options.device)
    own = options.model / "captions.json"
    labels = data.read_labels(own if own.is_file() else _HERE / "captions.json")
    unknown = [label for label in options.only or () if label not in labels]
    if unknown:
        raise InputError(f"--only {unknown[0]}: not among the {len(labels)} labels of {options.model}.")
    images = data.images(data.select(data.load_emoji(options.data), labels))
    chosen = options.only or labels
    wanted = [labels.index(label) for label in chosen]
    generated = generate(pipeline, [f"a {label}" for label in chosen], options)
    if options.grid:
        write_grid(generated, options.grid)
    if options.thumbnails:
        write_grid(functional.interpolate(images, size=(_THUMBNAIL, _THUMBNAIL), mode="area"), options.thumbnails)
    settings = {name: getattr(options, name) for name in ("guidance", "steps", "seed")}
    result = {
        "model": str(options.model),
        "scheduler": type(pipeline.scheduler).__name__,
        "torch": torch.__version__,
        **settings,
        **score(nearest(generated, images), wanted, labels),
        "vae_psnr_db": round(reconstruction_psnr(pipeline.vae, images), 2),
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    for name in ("labels", "top1_percent", "mse", "vae_psnr_db"):
        print(f"{name:14}{result[name]}")
    for miss in result["missed"]:
        print(f"missed        {miss['label']}: generated as {miss['nearest']}")


def write_grid(generated: "torch.Tensor", file: Path) -> None:
    """Write images as one sheet, 16 in a row.

    Args:
        generated: float32 (N, 3, H, W), -1 to 1.
        file: a PNG.
    """
    import torch
    from PIL import Image

    rows = -(-len(generated) // _COLUMNS)
    _, channels, height, width = generated.shape
    sheet = torch.ones((rows * _COLUMNS, channels, height, width))
    sheet[: len(generated)] = generated
    sheet = sheet.view(rows, _COLUMNS, channels, height, width).permute(0, 3, 1, 4, 2)
    values = ((sheet + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    Image.fromarray(values.reshape(rows * height, _COLUMNS * width, channels).numpy()).save(file, optimize=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", default=_HERE, help="checkpoint folder (default: the shipped weights)")
    add_shared(parser)
    add_generation(parser)
    add("--grid", type=Path, metavar="FILE", help="write the generated images as one sheet, 16 in a row")
    add("--thumbnails", type=Path, metavar="FILE", help="write the known images, 16 x 16 pixels each, as one sheet")
    return parser


if __name__ == "__main__":
    sys.exit(main())
