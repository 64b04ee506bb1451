"""Measures the distance of every pipeline to diffusers: worst error of the latents of any step, PSNR of the image.

python benchmarks/pipeline_parity.py FOLDER [CLASS ...]

Tiny random checkpoints (tests/support) are exported to FOLDER for ONNX Runtime and OpenVINO in fp32, each pipeline
generates one image in 10 steps on both sides, and the table of docs/reference/pipelines.md is printed, or the rows of
some classes. Existing bundles are used.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.export import export
from diffoundry.exporter.reference.arguments import reference_arguments
from diffoundry.exporter.reference.calls import call_pipeline
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.verify.checks.metrics import psnr
from diffoundry.exporter.verify.run_result import is_image, result_of
from diffoundry.runtime import load
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.pipelines.example_inputs import (
    ADAPTER,
    CONTROL,
    CONTROL_MASK,
    CONTROL_MODE,
    IMAGE_PROMPT,
    PROMPT,
    make_example_inputs,
)
from diffoundry.runtime.pipelines.staged import StagedPipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from class_checkpoints import CLASS_CHECKPOINTS
from ldm_checkpoints import LDM_CHECKPOINTS
from pixel_checkpoints import CHECKPOINTS
from tiny_auraflow import make_auraflow
from tiny_checkpoints import write_tiny_checkpoint, write_tiny_controlnet, write_tiny_t2i_adapter
from tiny_chroma import make_chroma
from tiny_flux import DEV, make_flux
from tiny_flux_2 import make_klein
from tiny_hunyuan_dit import make_hunyuan_dit
from tiny_ip_adapters import write_tiny_image_encoder, write_tiny_ip_adapter
from tiny_lumina2 import make_lumina2
from tiny_pixart import make_pixart
from tiny_qwen_image import make_qwen_image, make_qwen_image_21
from tiny_z_image import make_z_image, make_z_image_omni
from unclip_checkpoints import UNCLIP_CHECKPOINTS
from upscaler_checkpoint import make_latent_upscaler, make_upscaler

TARGETS = ("onnxruntime", "openvino")
TEXT = "red apple"

# diffusers' class, checkpoint, image inputs
PIPELINES = (
    ("StableDiffusionPipeline", "emoji", ()),
    ("StableDiffusionImg2ImgPipeline", "emoji", ("image",)),
    ("StableDiffusionInpaintPipeline", "emoji", ("image", "mask_image")),
    ("StableDiffusionInpaintPipeline", "inpaint", ("image", "mask_image")),
    ("StableDiffusionInstructPix2PixPipeline", "instruct", ("image",)),
    ("StableDiffusionDepth2ImgPipeline", "depth-estimated", ("image",)),
    ("StableDiffusionDepth2ImgPipeline", "depth-vit", ("image",)),
    ("StableDiffusionXLPipeline", "xl", ()),
    ("StableDiffusionXLPipeline", "xl-distilled", ()),
    ("StableDiffusionXLImg2ImgPipeline", "xl", ("image",)),
    ("StableDiffusionXLImg2ImgPipeline", "xl-refiner", ("image",)),
    ("StableDiffusionXLInpaintPipeline", "xl", ("image", "mask_image")),
    ("StableDiffusionXLInpaintPipeline", "xl-inpaint", ("image", "mask_image")),
    ("StableDiffusionXLInstructPix2PixPipeline", "xl-instruct", ("image",)),
    ("StableDiffusionControlNetPipeline", "sd1", (CONTROL,)),
    ("StableDiffusionControlNetPipeline", "sd1", (CONTROL, CONTROL)),
    ("StableDiffusionControlNetImg2ImgPipeline", "sd1", ("image", CONTROL)),
    ("StableDiffusionControlNetInpaintPipeline", "sd1", ("image", "mask_image", CONTROL)),
    ("StableDiffusionXLControlNetPipeline", "xl", (CONTROL,)),
    ("StableDiffusionXLControlNetImg2ImgPipeline", "xl", ("image", CONTROL)),
    ("StableDiffusionXLControlNetInpaintPipeline", "xl", ("image", "mask_image", CONTROL)),
    ("StableDiffusion3Pipeline", "sd3", ()),
    ("StableDiffusion3Img2ImgPipeline", "sd3", ("image",)),
    ("StableDiffusion3InpaintPipeline", "sd3", ("image", "mask_image")),
    ("StableDiffusion3InpaintPipeline", "sd3-inpaint", ("image", "mask_image")),
    ("StableDiffusion3ControlNetPipeline", "sd3", (CONTROL,)),
    ("StableDiffusion3ControlNetPipeline", "sd3", (CONTROL, CONTROL)),
    ("StableDiffusion3ControlNetInpaintingPipeline", "sd3", (CONTROL, CONTROL_MASK)),
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


# diffusers' class, checkpoint, kinds of T2I-Adapters, kinds of IP-Adapters
ADAPTED = (
    ("StableDiffusionAdapterPipeline", "sd1-small", ("full",), ()),
    ("StableDiffusionAdapterPipeline", "sd1-small", ("full", "grey"), ()),
    ("StableDiffusionXLAdapterPipeline", "xl-three", ("xl",), ()),
    ("StableDiffusionPipeline", "sd1-small", (), ("plain",)),
    ("StableDiffusionPipeline", "sd1-small", (), ("plus",)),
    ("StableDiffusionPipeline", "sd1-small", (), ("full",)),
    ("StableDiffusionXLPipeline", "xl", (), ("plain",)),
    ("StableDiffusionXLPipeline", "xl", (), ("plus",)),
)

_KINDS = {"plain": "an IP-Adapter", "plus": "an IP-Adapter Plus", "full": "a full-face IP-Adapter"}

_MEASURED = (
    "Kandinsky",
    "StableCascade",
    "Wuerstchen",
    "IF",
    "VQDiffusion",
    "ShapE",
    "Sana",
)

_CHANNELS = {"in_channels": 32, "out_channels": 16}
_CONTROLLED = make_example_inputs([CONTROL, CONTROL_MODE], 64, 64)

# diffusers' class, channels of the transformer, arguments
FLUX: tuple[tuple[str, dict[str, int], dict[str, Any]], ...] = (
    ("FluxPipeline", {}, {"negative_prompt": "blue", "true_cfg_scale": 3.0}),
    ("FluxImg2ImgPipeline", {}, {"image": _images(64)["image"]}),
    ("FluxInpaintPipeline", {}, _images(64)),
    ("FluxFillPipeline", {"in_channels": 48, "out_channels": 16}, _images(64)),
    ("FluxKontextPipeline", {}, {"image": _images(64)["image"], "max_area": 64 * 64, "_auto_resize": False}),
    ("FluxControlNetPipeline", {}, {**_CONTROLLED, "negative_prompt": "blue", "true_cfg_scale": 3.0}),
    ("FluxControlNetImg2ImgPipeline", {}, {"image": _images(64)["image"], **_CONTROLLED}),
    ("FluxControlNetInpaintPipeline", {}, {**_images(64), **_CONTROLLED}),
    (
        "FluxKontextInpaintPipeline",
        {},
        {**_images(64), "image_reference": _images(64)["image"].rotate(180), "_auto_resize": False},
    ),
    ("FluxControlPipeline", _CHANNELS, make_example_inputs([CONTROL], 64, 64)),
    ("FluxControlImg2ImgPipeline", _CHANNELS, make_example_inputs(["image", CONTROL], 64, 64)),
    ("FluxControlInpaintPipeline", _CHANNELS, make_example_inputs(["image", "mask_image", CONTROL], 64, 64)),
)

CHROMA: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ChromaPipeline", {"negative_prompt": "blue"}),
    ("ChromaImg2ImgPipeline", {"image": _images(64)["image"]}),
    ("ChromaInpaintPipeline", _images(64)),
)

Z_IMAGE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ZImagePipeline", {"negative_prompt": "blue"}),
    ("ZImageImg2ImgPipeline", {"image": _images(64)["image"]}),
    ("ZImageInpaintPipeline", _images(64)),
)

KLEIN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Flux2KleinPipeline", {"image": _images(64)["image"], "height": 64, "width": 64}),
    ("Flux2KleinInpaintPipeline", {**_images(64), "image_reference": make_example_inputs(["image"], 64, 96)["image"]}),
    ("Flux2KleinKVPipeline", {"image": _images(64)["image"], "height": 64, "width": 64}),
)

# diffusers' class, arguments
QWEN_IMAGE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("QwenImagePipeline", {"negative_prompt": "blue"}),
    ("QwenImageImg2ImgPipeline", {"image": _images(64)["image"]}),
    ("QwenImageInpaintPipeline", _images(64)),
)

# Of a class that sees images: without any, and with two of other sizes
_SEEN = {"prompt": TEXT, "height": 64, "width": 64}
_TWO_IMAGES = [make_example_inputs(["image"], height, width)["image"] for height, width in ((64, 96), (96, 64))]

# diffusers' class of a system, the function that writes its checkpoint, arguments
SYSTEMS = (
    ("StableDiffusionUpscalePipeline", make_upscaler, {"prompt": TEXT, **make_example_inputs(["image"], 64, 64, 4)}),
    (
        "StableDiffusionLatentUpscalePipeline",
        make_latent_upscaler,
        {"prompt": TEXT, **make_example_inputs(["image"], 64, 64, 2)},
    ),
    *(
        (name, partial(make_flux, name=name, **DEV, **channels), {"prompt": TEXT, "height": 64, "width": 64, **given})
        for name, channels, given in FLUX
    ),
    ("AuraFlowPipeline", make_auraflow, {"prompt": TEXT, "height": 32, "width": 52}),
    ("Lumina2Pipeline", make_lumina2, {"prompt": TEXT, "height": 32, "width": 64}),
    (
        "HunyuanDiTPipeline",
        make_hunyuan_dit,
        {"prompt": TEXT, "height": 32, "width": 64, "use_resolution_binning": False},
    ),
    *(
        (name, partial(make_chroma, name=name), {"prompt": TEXT, "height": 64, "width": 64, **given})
        for name, given in CHROMA
    ),
    *(
        (name, partial(make_z_image, name=name), {"prompt": TEXT, "height": 64, "width": 64, **given})
        for name, given in Z_IMAGE
    ),
    *((name, partial(make_klein, name=name), {"prompt": TEXT, **given}) for name, given in KLEIN),
    *(
        (name, partial(make_qwen_image, name=name), {"prompt": TEXT, "height": 64, "width": 64, **given})
        for name, given in QWEN_IMAGE
    ),
    ("ZImageOmniPipeline", make_z_image_omni, {**_SEEN, "image": _TWO_IMAGES, "negative_prompt": "blue"}),
    ("QwenImage21Pipeline", make_qwen_image_21, {**_SEEN, "image": _TWO_IMAGES, "output_resolution": 64}),
    *(
        (
            name,
            partial(make_pixart, name=name),
            {"prompt": TEXT, "height": 64, "width": 96, "use_resolution_binning": False},
        )
        for name in ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline")
    ),
    ("LDMPipeline", LDM_CHECKPOINTS["LDMPipeline"], {}),
    (
        "LDMTextToImagePipeline",
        LDM_CHECKPOINTS["LDMTextToImagePipeline"],
        {"prompt": TEXT, "guidance_scale": 5.0, "height": 64, "width": 64},
    ),
    (
        "LDMSuperResolutionPipeline",
        LDM_CHECKPOINTS["LDMSuperResolutionPipeline"],
        make_example_inputs(["image"], 64, 64),
    ),
    ("UnCLIPPipeline", UNCLIP_CHECKPOINTS["UnCLIPPipeline"], {"prompt": TEXT, **_UNCLIP, **_PRIOR}),
    (
        "UnCLIPImageVariationPipeline",
        UNCLIP_CHECKPOINTS["UnCLIPImageVariationPipeline"],
        {**make_example_inputs(["image"], 64, 64), **_UNCLIP},
    ),
    (
        "StableUnCLIPPipeline",
        UNCLIP_CHECKPOINTS["StableUnCLIPPipeline"],
        {"prompt": TEXT, "prior_num_inference_steps": 10},
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
    # With the arguments of a measurement
    *(
        (name, CLASS_CHECKPOINTS[name].make, None)
        for name in (
            *("DDPMPipeline", "DDIMPipeline", "PNDMPipeline"),
            *(name for name in CLASS_CHECKPOINTS if name.startswith(_MEASURED)),
            *(f"StableDiffusion{kind}PAG{form}Pipeline" for kind in ("", "XL") for form in ("", "Img2Img", "Inpaint")),
        )
    ),
)


def main(place: str, *names: str) -> None:
    """Print the table, or the rows of some classes."""
    folder = Path(place)
    wanted = partial(_wanted, names)
    print(f"| pipeline | checkpoint | {' | '.join(f'{name}: latents | image' for name in TARGETS)} |")
    print("|---|---|" + "---|" * (2 * len(TARGETS)))
    for name, model, needs in filter(wanted, PIPELINES):
        given = make_example_inputs(needs, 64, 64)
        checkpoint = _checkpoint(folder, model)
        kind = "masked" if CONTROL_MASK in needs else "net"
        nets = [_controlnet(folder, model, f"{kind}{index or ''}") for index in range(needs.count(CONTROL))]
        latents, image = _reference(checkpoint, name, given, nets)
        cells = []
        for target in TARGETS:
            ours = load(_bundle(folder, checkpoint, model, nets), target=target, safety_checker=None)
            run = ours.start(
                None if IMAGE_PROMPT in needs else TEXT, seed=0, num_inference_steps=10, output_type="np", **given
            )
            cells += _cells(ours, run, latents, image)
        beside = f" with {len(nets)} ControlNets" if len(nets) > 1 else ""
        print(f"| `{name}` | {model}{beside} | {' | '.join(cells)} |", flush=True)
    for name, model, adapters, kinds in filter(wanted, ADAPTED):
        opened = _adapted(folder, model, adapters, kinds)
        given = {"prompt": TEXT, **make_example_inputs([ADAPTER] * len(adapters) + [PROMPT] * len(kinds), 64, 64)}
        joined = [*(_KINDS[kind] for kind in kinds), *(["a T2I-Adapter"] if len(adapters) == 1 else [])]
        beside = f"{len(adapters)} T2I-Adapters" if len(adapters) > 1 else joined[0]
        words = (model, *(f"t2i-{kind}" for kind in adapters), *(f"ip-{kind}" for kind in kinds))
        bundle = folder / f"{'+'.join(words)}.bundle"
        print(f"| `{name}` | {model} with {beside} | {' | '.join(_system_cells(opened, bundle, given))} |", flush=True)
    for name, make, arguments in filter(wanted, SYSTEMS):
        opened = open_checkpoint(str(_written(folder / name, make)))
        bundle = _exported(opened, folder / f"{name}.bundle")
        given = _measurement(name, bundle) if arguments is None else arguments
        print(f"| `{name}` | tiny | {' | '.join(_system_cells(opened, bundle, given))} |", flush=True)


def _wanted(names: Sequence[str], row: Sequence[Any]) -> bool:
    return not names or row[0] in names


def _measurement(name: str, bundle: Path) -> dict[str, Any]:
    """Return the arguments of a measurement of a class, with a prompt where it takes one."""
    pipe = load(bundle, target=TARGETS[0])
    prompt = {"prompt": TEXT} if pipe.text_encoders else {}
    most = 2 if "intermediate_timesteps" in pipe.argument_names else 10  # diffusers' default of Sana-Sprint is for two
    steps = min(most, pipe.scheduler.config.get("num_train_timesteps", most))
    return {**pipe.measure_arguments(steps, 4.0, *(CLASS_CHECKPOINTS[name].size or pipe.default_size)), **prompt}


def _adapted(folder: Path, model: str, adapters: Sequence[str], kinds: Sequence[str]) -> Checkpoint:
    """Open a tiny checkpoint with T2I-Adapters and IP-Adapters."""
    checkpoint, files = _checkpoint(folder, model), []
    places = [
        str(_written(folder / f"{model}-t2i-{kind}", partial(_write_t2i_adapter, model, kind))) for kind in adapters
    ]
    for kind in kinds:
        _written(folder / f"{model}-ip/image_encoder", write_tiny_image_encoder)
        file = folder / f"{model}-ip/ip-adapter-{kind}.safetensors"
        write_tiny_ip_adapter(file, checkpoint / "unet", kind)
        files.append(str(file))
    return open_checkpoint(str(checkpoint)).with_t2i_adapters(places).with_ip_adapters(files)


def _write_t2i_adapter(model: str, kind: str, folder: Path) -> None:
    write_tiny_t2i_adapter(folder, model, kind)


def _written(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder of a checkpoint, which `make` writes unless it is there."""
    if not folder.is_dir():
        torch.manual_seed(0)
        make(folder)
    return folder


def _system_cells(opened: Checkpoint, bundle: Path, given: dict[str, Any]) -> list[str]:
    """Measure a system over the steps of all its schedulers, without its safety checker."""
    pipe = reference_pipeline(opened)
    if hasattr(pipe, "safety_checker"):
        pipe.safety_checker = None
    _exported(opened, bundle)
    ours = load(bundle, target=TARGETS[0])
    watch = isinstance(ours, StagedPipeline) and ours.follows_scheduler
    latents: list[np.ndarray] = []
    arguments = {"num_inference_steps": 10, "output_type": "np", **given}
    arguments = {key: value for key, value in arguments.items() if value is not None}
    expected = call_pipeline(
        pipe,
        arguments.get("prompt"),
        lambda _index, _timestep, values: latents.append(values.numpy().copy()),
        watch=watch,
        generator=torch.manual_seed(0),  # the global one, since some pipelines pass none to their scheduler
        **{key: value for key, value in reference_arguments(pipe, arguments).items() if key != "prompt"},
    )
    cells = []
    for target in TARGETS:
        ours = load(bundle, target=target, safety_checker=False)
        cells += _cells(ours, ours.start(seed=0, **arguments), latents, result_of(expected))
    return cells


def _cells(ours: Any, run: Any, latents: Sequence[np.ndarray], result: np.ndarray) -> list[str]:
    """Format the worst error of the latents and the PSNR of the image of a run, if it makes one."""
    errors = [
        np.abs(ours.pack(step.latents) - expected).max() / np.sqrt(np.mean(expected**2))
        for step, expected in zip(run, latents, strict=True)
    ]
    made, words = result_of(run.finish()), "–"
    if is_image(result):
        value = psnr(made, result, peak=1.0)
        words = f"{value:.0f} dB" if np.isfinite(value) else "equal"
    return [f"{max(errors):.1e}", words]


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
    opened = open_checkpoint(str(checkpoint)).with_controlnets([str(net) for net in nets])
    return _exported(opened, folder / f"{'+'.join((model, *(net.name for net in nets)))}.bundle")


def _exported(opened: Checkpoint, bundle: Path) -> Path:
    if not bundle.is_dir():
        variants = tuple(Variant(target=target, precision="fp32") for target in TARGETS)
        export(opened, ExportRequest(variants=variants), bundle, lambda *_: None)
    return bundle


def _reference(
    checkpoint: Path, name: str, given: dict[str, Any], nets: Sequence[Path]
) -> tuple[list[np.ndarray], np.ndarray]:
    network = diffusers.SD3ControlNetModel if "Diffusion3" in name else diffusers.ControlNetModel
    models = [network.from_pretrained(net) for net in nets]
    beside = {"controlnet": models if len(models) > 1 else models[0]} if models else {}
    pipe = getattr(diffusers, name).from_pretrained(checkpoint, torch_dtype=torch.float32, **beside)
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "safety_checker"):  # black images would be the same whatever was generated
        pipe.safety_checker = None
    latents: list[np.ndarray] = []

    def keep(_index: int, _timestep: Any, values: torch.Tensor) -> None:
        latents.append(values.numpy().copy())

    given = reference_arguments(pipe, given)
    torch.manual_seed(0)  # pipelines of Stable Diffusion 3 draw latents of control images from the global generator
    images = call_pipeline(
        pipe,
        TEXT,
        keep,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=10,
        output_type="np",
        **given,
    ).images
    return latents, np.asarray(images[0], np.float32)


if __name__ == "__main__":
    main(*sys.argv[1:])
