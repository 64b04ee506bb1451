"""Measures the distance of every pipeline to diffusers: worst error of the latents of any step, PSNR of the image.

python benchmarks/pipeline_parity.py FOLDER

Tiny random checkpoints (tests/support) are exported to FOLDER for ONNX Runtime and OpenVINO in fp32, each pipeline
generates one image in 10 steps on both sides, and the table of docs/reference/pipelines.md is printed. Existing
bundles are used.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.export import export
from diffoundry.exporter.reference.pipeline import call_pipeline, reference_arguments, reference_pipeline
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.verify.checks.metrics import psnr
from diffoundry.runtime import load
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.pipelines.example_inputs import CONTROL, IMAGE_PROMPT, make_example_inputs

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from ldm_checkpoints import LDM_CHECKPOINTS
from pixel_checkpoints import CHECKPOINTS
from tiny_checkpoints import write_tiny_checkpoint, write_tiny_controlnet
from unclip_checkpoints import UNCLIP_CHECKPOINTS

TARGETS = ("onnxruntime", "openvino")
PROMPT = "red apple"

# diffusers' class, checkpoint, image inputs
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
    ("StableDiffusionControlNetPipeline", "sd1", (CONTROL,)),
    ("StableDiffusionControlNetPipeline", "sd1", (CONTROL, CONTROL)),
    ("StableDiffusionControlNetImg2ImgPipeline", "sd1", ("image", CONTROL)),
    ("StableDiffusionControlNetInpaintPipeline", "sd1", ("image", "mask_image", CONTROL)),
    ("StableDiffusionXLControlNetPipeline", "xl", (CONTROL,)),
    ("StableDiffusionXLControlNetImg2ImgPipeline", "xl", ("image", CONTROL)),
    ("StableDiffusionXLControlNetInpaintPipeline", "xl", ("image", "mask_image", CONTROL)),
    ("StableDiffusion3Pipeline", "sd3", ()),
    ("StableDiffusionImageVariationPipeline", "variation", (IMAGE_PROMPT,)),
    ("LatentConsistencyModelPipeline", "lcm", ()),
    ("LatentConsistencyModelImg2ImgPipeline", "lcm", ("image",)),
    ("StableDiffusionPipeline", "sd1-tiny", ()),
)


_UNCLIP = {"decoder_num_inference_steps": 5, "super_res_num_inference_steps": 5, "num_inference_steps": None}
_PRIOR = {"prior_num_inference_steps": 10}


def _images(side: int) -> dict[str, Any]:
    """Return an image and its mask, without their size."""
    given = make_example_inputs(["image", "mask_image"], side, side)
    return {name: given[name] for name in ("image", "mask_image")}


# diffusers' class of a system, the function that writes its checkpoint, arguments
SYSTEMS = (
    ("LDMPipeline", LDM_CHECKPOINTS["LDMPipeline"], {}),
    (
        "LDMTextToImagePipeline",
        LDM_CHECKPOINTS["LDMTextToImagePipeline"],
        {"prompt": PROMPT, "guidance_scale": 5.0, "height": 64, "width": 64},
    ),
    (
        "LDMSuperResolutionPipeline",
        LDM_CHECKPOINTS["LDMSuperResolutionPipeline"],
        make_example_inputs(["image"], 64, 64),
    ),
    ("UnCLIPPipeline", UNCLIP_CHECKPOINTS["UnCLIPPipeline"], {"prompt": PROMPT, **_UNCLIP, **_PRIOR}),
    (
        "UnCLIPImageVariationPipeline",
        UNCLIP_CHECKPOINTS["UnCLIPImageVariationPipeline"],
        {**make_example_inputs(["image"], 64, 64), **_UNCLIP},
    ),
    (
        "StableUnCLIPPipeline",
        UNCLIP_CHECKPOINTS["StableUnCLIPPipeline"],
        {"prompt": PROMPT, "prior_num_inference_steps": 10},
    ),
    (
        "StableUnCLIPImg2ImgPipeline",
        UNCLIP_CHECKPOINTS["StableUnCLIPImg2ImgPipeline"],
        make_example_inputs(["image"], 64, 64),
    ),
    ("ConsistencyModelPipeline", CHECKPOINTS["consistency"], {"class_labels": [3]}),
    ("DiTPipeline", CHECKPOINTS["dit"], {"class_labels": [207]}),
    ("ScoreSdeVePipeline", CHECKPOINTS["score-sde-ve"], {}),
    ("KarrasVePipeline", CHECKPOINTS["karras-ve"], {}),
    (
        "RePaintPipeline",
        CHECKPOINTS["repaint"],
        {**_images(32), "jump_length": 5, "jump_n_sample": 2},
    ),
)


def main(place: str) -> None:
    """Print the table."""
    folder = Path(place)
    print(f"| pipeline | checkpoint | {' | '.join(f'{name}: latents | image' for name in TARGETS)} |")
    print("|---|---|" + "---|" * (2 * len(TARGETS)))
    for name, model, needs in PIPELINES:
        given = make_example_inputs(needs, 64, 64)
        checkpoint = _checkpoint(folder, model)
        nets = [_controlnet(folder, model, f"net{index}") for index in range(needs.count(CONTROL))]
        latents, image = _reference(checkpoint, name, given, nets)
        cells = []
        for target in TARGETS:
            run = load(_bundle(folder, checkpoint, model, nets), target=target, safety_checker=None).start(
                None if IMAGE_PROMPT in needs else PROMPT, seed=0, num_inference_steps=10, output_type="np", **given
            )
            cells += _cells(run, latents, image)
        beside = f" with {len(nets)} ControlNets" if len(nets) > 1 else ""
        print(f"| `{name}` | {model}{beside} | {' | '.join(cells)} |", flush=True)
    for name, make, given in SYSTEMS:
        print(f"| `{name}` | tiny | {' | '.join(_system_cells(folder, name, make, given))} |", flush=True)


def _system_cells(folder: Path, name: str, make: Callable[[Path], None], given: dict[str, Any]) -> list[str]:
    """Measure a system over the steps of all its schedulers."""
    checkpoint = folder / name
    if not checkpoint.is_dir():
        torch.manual_seed(0)
        make(checkpoint)
    pipe = reference_pipeline(open_checkpoint(str(checkpoint)))
    latents: list[np.ndarray] = []
    arguments = {"num_inference_steps": 10, "output_type": "np", **given}
    arguments = {key: value for key, value in arguments.items() if value is not None}
    image = call_pipeline(
        pipe,
        arguments.get("prompt"),
        lambda _index, _timestep, values: latents.append(values.numpy().copy()),
        watch=True,
        generator=torch.Generator().manual_seed(0),
        **{key: value for key, value in arguments.items() if key != "prompt"},
    ).images[0]
    cells = []
    for target in TARGETS:
        run = load(_bundle(folder, checkpoint, name, ()), target=target).start(seed=0, **arguments)
        cells += _cells(run, latents, image)
    return cells


def _cells(run: Any, latents: Sequence[np.ndarray], image: np.ndarray) -> list[str]:
    """Format the worst error of the latents and the PSNR of the image of a run."""
    errors = [
        np.abs(step.latents - expected).max() / np.sqrt(np.mean(expected**2))
        for step, expected in zip(run, latents, strict=True)
    ]
    value = psnr(np.asarray(run.finish().images[0]), image, peak=1.0)
    return [f"{max(errors):.1e}", f"{value:.0f} dB"]


def _checkpoint(folder: Path, model: str) -> Path:
    if model == "emoji":
        return Path(__file__).parents[1] / "models/emoji"
    path = folder / model
    if not path.is_dir():
        write_tiny_checkpoint(path, model)
    return path


def _controlnet(folder: Path, model: str, name: str) -> Path:
    path = folder / f"{model}-{name}"
    if not path.is_dir():
        write_tiny_controlnet(path, model, name)
    return path


def _bundle(folder: Path, checkpoint: Path, model: str, nets: Sequence[Path]) -> Path:
    bundle = folder / f"{'+'.join((model, *(net.name for net in nets)))}.bundle"
    if not bundle.is_dir():
        variants = tuple(Variant(target=target, precision="fp32") for target in TARGETS)
        opened = open_checkpoint(str(checkpoint)).with_controlnets([str(net) for net in nets])
        export(opened, ExportRequest(variants=variants), bundle, lambda *_: None)
    return bundle


def _reference(
    checkpoint: Path, name: str, given: dict[str, Any], nets: Sequence[Path]
) -> tuple[list[np.ndarray], np.ndarray]:
    models = [diffusers.ControlNetModel.from_pretrained(net) for net in nets]
    beside = {"controlnet": models if len(models) > 1 else models[0]} if models else {}
    pipe = getattr(diffusers, name).from_pretrained(checkpoint, torch_dtype=torch.float32, **beside)
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "safety_checker"):  # black images would be the same whatever was generated
        pipe.safety_checker = None
    latents: list[np.ndarray] = []

    def keep(_index: int, _timestep: Any, values: torch.Tensor) -> None:
        latents.append(values.numpy().copy())

    given = reference_arguments(pipe, given)
    images = call_pipeline(
        pipe,
        PROMPT,
        keep,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=10,
        output_type="np",
        **given,
    ).images
    return latents, np.asarray(images[0], np.float32)


if __name__ == "__main__":
    main(sys.argv[1])
