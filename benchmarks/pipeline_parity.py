"""How far every pipeline is from diffusers' own: worst error of the latents over all steps, and PSNR of the picture.

python benchmarks/pipeline_parity.py FOLDER

Tiny random checkpoints (tests/support) are exported to FOLDER for ONNX Runtime and OpenVINO in fp32, each pipeline
paints one picture in 10 steps on both sides, and the table of docs/pipelines.md is printed. Bundles that are there
already are used.
"""

import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from diffoundry.exporter.build import ExportRequest, build
from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify.metrics import psnr
from diffoundry.runtime import load
from diffoundry.runtime.pipelines.stand_in import size_arguments
from diffoundry.runtime.specs import BuildSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from tiny_checkpoints import write_tiny_checkpoint

TARGETS = ("onnxruntime", "openvino")

# diffusers' class, checkpoint, which pictures it takes
PIPELINES = (
    ("StableDiffusionPipeline", "emoji", ()),
    ("StableDiffusionImg2ImgPipeline", "emoji", ("image",)),
    ("StableDiffusionInpaintPipeline", "emoji", ("image", "mask_image")),
    ("StableDiffusionInpaintPipeline", "inpaint", ("image", "mask_image")),
    ("StableDiffusionInstructPix2PixPipeline", "instruct", ("image",)),
    ("StableDiffusionXLPipeline", "xl", ()),
    ("StableDiffusionXLPipeline", "xl-distilled", ()),
    ("StableDiffusionXLImg2ImgPipeline", "xl", ("image",)),
    ("StableDiffusionXLImg2ImgPipeline", "xl-refiner", ("image",)),
    ("StableDiffusionXLInpaintPipeline", "xl", ("image", "mask_image")),
    ("StableDiffusionXLInpaintPipeline", "xl-inpaint", ("image", "mask_image")),
)


def main(place: str) -> None:
    """Print the table."""
    folder = Path(place)
    print(f"| pipeline | checkpoint | {' | '.join(f'{name}: latents | picture' for name in TARGETS)} |")
    print("|---|---|" + "---|" * (2 * len(TARGETS)))
    for name, model, needs in PIPELINES:
        sizes = size_arguments(needs, 64, 64)
        checkpoint = _checkpoint(folder, model)
        latents, picture = _reference(checkpoint, name, sizes)
        cells = []
        for target in TARGETS:
            run = load(_bundle(folder, checkpoint, model), target=target).start(
                "red apple", seed=0, num_inference_steps=10, output_type="np", **sizes
            )
            errors = [
                np.abs(step.latents - expected).max() / np.sqrt(np.mean(expected**2))
                for step, expected in zip(run, latents, strict=True)
            ]
            value = psnr(np.asarray(run.finish().images[0]), picture, peak=1.0)
            cells += [f"{max(errors):.1e}", f"{value:.0f} dB"]
        print(f"| `{name}` | {model} | {' | '.join(cells)} |", flush=True)


def _checkpoint(folder: Path, model: str) -> Path:
    if model == "emoji":
        return Path(__file__).parents[1] / "models/emoji"
    path = folder / model
    if not path.is_dir():
        write_tiny_checkpoint(path, model)
    return path


def _bundle(folder: Path, checkpoint: Path, model: str) -> Path:
    bundle = folder / f"{model}.bundle"
    if not bundle.is_dir():
        builds = tuple(BuildSpec(target=target, precision="fp32") for target in TARGETS)
        build(open_checkpoint(str(checkpoint)), ExportRequest(builds=builds), bundle, lambda *_: None)
    return bundle


def _reference(checkpoint: Path, name: str, sizes: dict[str, Any]) -> tuple[list[Any], Any]:
    pipe = getattr(diffusers, name).from_pretrained(checkpoint, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    latents = []

    def keep(_pipe: Any, _index: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents.append(values["latents"].numpy().copy())
        return {}

    images = pipe(
        "red apple",
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=10,
        output_type="np",
        callback_on_step_end=keep,
        **sizes,
    ).images
    return latents, np.asarray(images[0], np.float32)


if __name__ == "__main__":
    main(sys.argv[1])
