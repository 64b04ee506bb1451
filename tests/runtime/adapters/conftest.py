"""Random LoRAs in the formats that are shared, of modules that diffusers built."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffoundry.runtime import load
from diffoundry.runtime.formats.ldm_keys import ldm_unet_names

PATTERNS = {
    "attention": r"(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)$",
    "projections": r"(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.\d.*|[qkv]_proj|out_proj|fc[12])$",
    "everything": r".",
}
"""What trainers choose: the attentions, whole transformer blocks, or every layer."""


PARTS = ("unet", "text_encoder", "text_encoder_2")
"""What LoRAs are for."""


def open_diffusers(folder: Path) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def layers(tiny_sd_checkpoint: Callable[[str], Path]) -> Callable[..., dict[str, dict[str, torch.nn.Module]]]:
    """Factory: component to its linear layers and convolutions by name, those that a pattern finds."""

    opened = functools.cache(lambda variant: open_diffusers(tiny_sd_checkpoint(variant)))

    def find(which: str = "projections", variant: str = "sd1") -> dict[str, dict[str, torch.nn.Module]]:
        pipe = opened(variant)
        return {
            part: {
                name: module
                for name, module in getattr(pipe, part).named_modules()
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and re.search(PATTERNS[which], name)
            }
            for part in PARTS
            if getattr(pipe, part, None) is not None
        }

    find.pipeline = functools.partial(opened, "sd1")
    return find


def factors(module: torch.nn.Module, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """down and up such that the change is as large as a fifth of the weight."""
    weight = module.weight
    down = torch.randn((rank, *weight.shape[1:]), generator=generator) / weight[0].numel() ** 0.5
    up = torch.randn((weight.shape[0], rank, *(1 for _ in weight.shape[2:])), generator=generator)
    return down, up * (0.2 * weight.std() * weight[0].numel() ** 0.5 / rank**0.5)


NAMES = {
    "peft": lambda part, name: (f"{part}.{name}.lora_A.weight", f"{part}.{name}.lora_B.weight", None),
    "kohya": lambda part, name: tuple(
        f"{'lora_unet_' if part == 'unet' else 'lora_te_text_model_'}{name.replace('.', '_')}.{ending}"
        for ending in ("lora_down.weight", "lora_up.weight", "alpha")
    ),
    "diffusers": lambda part, name: (
        *(
            f"{part}.{name}.{'lora' if part == 'unet' else 'lora_linear_layer'}.{side}.weight"
            for side in ("down", "up")
        ),
        None,
    ),
    "processors": lambda part, name: (
        *(f"{part}.{processor(part, name)}_lora.{side}.weight" for side in ("down", "up")),
        None,
    ),
    # of trainers for Stable Diffusion XL: two text encoders, the UNet's blocks by their original names
    "kohya-xl": lambda part, name: tuple(
        f"{KOHYA_XL[part]}{name.removeprefix('text_model.').replace('.', '_')}.{ending}"
        for ending in ("lora_down.weight", "lora_up.weight", "alpha")
    ),
}

KOHYA_XL = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}


def processor(part: str, name: str) -> str:
    """Name of a layer in diffusers' first attention processors."""
    if part == "unet":
        head, last = re.fullmatch(r"(.*)\.(to_q|to_k|to_v|to_out)(?:\.0)?", name).groups()
        return f"{head}.processor.{last}"
    head, last = name.rsplit(".", 1)
    return f"{head}.{ {'q_proj': 'to_q', 'k_proj': 'to_k', 'v_proj': 'to_v', 'out_proj': 'to_out'}[last] }"


@pytest.fixture(scope="session")
def make_lora(layers: Callable[..., Any]) -> Callable[..., Path]:
    """Factory: write a random LoRA file: format, pattern of layers, rank of each, alpha of each, type."""

    def make(
        path: Path,
        form: str = "peft",
        which: str = "projections",
        *,
        seed: int = 0,
        variant: str = "sd1",
        dtype: torch.dtype = torch.float32,
        rank: Callable[[int], int] = lambda count: 2 + count % 3,
        metadata: dict[str, str] | None = None,
    ) -> Path:
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        found = [(part, name, m) for part, some in layers(which, variant).items() for name, m in some.items()]
        originals = ldm_unet_names([name for part, name, _ in found if part == "unet"], 1) if form == "kohya-xl" else {}
        for count, (part, name, module) in enumerate(found):
            if form == "kohya-xl" and name == "text_projection":
                continue  # it is no layer of a transformer, and such trainers leave it as it is
            own_name = originals[name] if part == "unet" and originals else name
            down_name, up_name, alpha_name = NAMES[form](part, own_name)
            down, up = factors(module, rank(count), generator)
            tensors |= {down_name: down.to(dtype), up_name: up.to(dtype)}
            if alpha_name is not None:
                # diffusers gives the most frequent alpha to attentions and text encoders, whatever theirs is.
                own = part == "unet" and not re.search(PATTERNS["attention"], name) and count % 2
                tensors[alpha_name] = torch.tensor(2.5 if own else 1.5).to(dtype)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
        return path

    return make


@pytest.fixture(scope="session")
def steps() -> Callable[..., tuple[list[np.ndarray], np.ndarray]]:
    """Latents after every step and the image, of ours or of diffusers."""

    def follow(pipe: Any, prompt: str = "a red apple", **arguments: Any) -> tuple[list[np.ndarray], np.ndarray]:
        arguments = {"num_inference_steps": 3, "height": 64, "width": 64, **arguments}
        if isinstance(pipe, diffusers.DiffusionPipeline):
            latents: list[np.ndarray] = []

            def keep(_pipe: Any, _index: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
                latents.append(values["latents"].numpy().copy())
                return {}

            generator = torch.Generator().manual_seed(0)
            images = pipe(prompt, generator=generator, callback_on_step_end=keep, output_type="np", **arguments).images
            return latents, images
        run = pipe.start(prompt, seed=0, output_type="np", **arguments)
        return [step.latents for step in run], run.finish().images

    return follow


@pytest.fixture(scope="session")
def error() -> Callable[..., float]:
    """The largest difference over all steps, relative to the largest latent."""
    return lambda ours, theirs: max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours[0], theirs[0], strict=True)
    )


@pytest.fixture(scope="session")
def bundle(exported: Callable[..., Path], tiny_sd_checkpoint: Callable[[str], Path]) -> Path:
    """The tiny checkpoint for ONNX Runtime and OpenVINO."""
    return exported(tiny_sd_checkpoint(), target="onnxruntime,openvino", precision="fp32,fp16")


@pytest.fixture(scope="session")
def opened(bundle: Path) -> Callable[..., Any]:
    """Factory: our pipeline of the tiny checkpoint."""
    return lambda target="onnxruntime", precision="fp32": load(bundle, target=target, precision=precision)


@pytest.fixture
def diffusers_of(tiny_sd_checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """Factory: diffusers' pipeline of a tiny checkpoint, into which LoRAs may be loaded."""
    pytest.importorskip("peft", reason="diffusers loads LoRAs with it")
    return lambda variant: open_diffusers(tiny_sd_checkpoint(variant))


@pytest.fixture
def theirs(diffusers_of: Callable[[str], Any]) -> Any:
    """diffusers' pipeline of the tiny checkpoint."""
    return diffusers_of("sd1")
