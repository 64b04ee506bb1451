"""The upscaler's second stage: a UNet that generates latents of 256 pixels from a noised image of 64."""

import argparse
import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from diffoundry_models.emoji.training import data
from diffoundry_models.emoji.training.checkpoint import (
    copy_component,
    load_network,
    prepare_folder,
    write_component,
)
from diffoundry_models.emoji.training.command import report
from diffoundry_models.emoji.training.loop import Options, Session, TrainingTask
from diffoundry_models.emoji.training.stages import TrainingStage, run_stage
from diffoundry_models.emoji.training.upscaler_vae import (
    draw_corners,
    encode_large,
    large_images,
    upscaler_vae_task,
    write_upscaler_vae,
)
from diffoundry_models.emoji.training.vae import encode
from diffoundry_models.emoji.training.workspace import Workspace, draw_indices, draw_normal

__all__ = ["WIRING", "split", "train_upscaler", "upscaler_task", "write_upscaler"]

_CROP = 32
_EMPTY = 0.1
_SOFT = 0.5
_DISTURBANCE = 0.15
_HELD = 10
WIRING = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "low_res_scheduler/scheduler_config.json",
)
_TEXT = ("tokenizer", "text_encoder")
_TEMPLATES = ("a {}", "{}")


def split(emoji: Sequence[data.Emoji], known: Sequence[str]) -> tuple[list[data.Emoji], list[data.Emoji]]:
    """Split emoji into those to learn and those to score: every tenth of the labels that the base does not know.

    Args:
        emoji: all.
        known: labels of the base.
    """
    names = set(known)
    held = [one for one in emoji if one.label not in names][::_HELD]
    scored = {one.label for one in held}
    return [one for one in emoji if one.label not in scored], held


def upscaler_task(space: Workspace, options: Options, base: Path) -> TrainingTask:
    """Make the task: MSE on v over random crops, steps, noise levels and captions; one caption in ten is empty.

    One half of the images that the base knows were first sent through its autoencoder, as softly as it generates.
    The network runs in bfloat16, its weights stay float32.

    Args:
        space: the data and the place.
        options: the schedule.
        base: checkpoint folder that generates the small images.
    """
    if space.init is not None:
        unet = load_network(UNet2DConditionModel, space.init / "unet")
    else:
        torch.manual_seed(options.seed)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(space.architecture / "unet"))
    unet.to(space.device).train()
    scheduler = DDIMScheduler.from_pretrained(space.out / "scheduler")
    low_res_scheduler = DDPMScheduler.from_pretrained(space.out / "low_res_scheduler")
    vae = load_network(AutoencoderKL, space.component("vae", "vae")).to(space.device)
    with torch.autocast(space.device.type, torch.bfloat16):
        parts = encode_large(vae, large_images(space.emoji).to(space.device))
    mean, deviation = (part.float() for part in parts)
    soft = _soft(space, base, options.seed)
    words = _words(space)

    def loss(generator: torch.Generator) -> torch.Tensor:
        picked = draw_indices(options.batch, len(mean), generator, torch.device("cpu"))
        corners = draw_corners(options.batch, data.SIZE - _CROP, generator)
        window = functools.partial(_crop, picked=picked.tolist(), corners=corners)
        latents = window(mean)
        latents = (latents + window(deviation) * draw_normal(latents, generator)) * vae.config.scaling_factor
        blurred = torch.rand((options.batch, 1, 1, 1), generator=generator) < _SOFT
        small = torch.where(blurred.to(space.device), window(soft), window(space.images))
        levels = draw_indices(options.batch, unet.config.num_class_embeds, generator, space.device)
        small = low_res_scheduler.add_noise(small, draw_normal(small, generator), levels)
        kinds = draw_indices(options.batch, len(_TEMPLATES), generator, torch.device("cpu"))
        empty = torch.rand((options.batch,), generator=generator) < _EMPTY
        said = words[picked, torch.where(empty, len(_TEMPLATES), kinds)]
        noise = draw_normal(latents, generator)
        steps = draw_indices(options.batch, scheduler.config.num_train_timesteps, generator, space.device)
        sample = torch.cat([scheduler.add_noise(latents, noise, steps), small], dim=1)
        with torch.autocast(space.device.type, torch.bfloat16):
            output = unet(sample, steps, said.to(space.device), class_labels=levels).sample
        return functional.mse_loss(output.float(), scheduler.get_velocity(latents, noise, steps))

    return TrainingTask(stage="unet", module=unet, loss=loss, data=space.fingerprint)


def write_upscaler(space: Workspace, unet: nn.Module) -> None:
    """Save the UNet in float16."""
    half: Any = copy.deepcopy(unet).half()
    write_component(half, space.out / "unet")


def train_upscaler(options: argparse.Namespace, shipped: Path) -> None:
    """Train the autoencoder, then the UNet; tokenizer and text encoder are the base's.

    Args:
        options: of the command.
        shipped: folder of the model: its configs.
    """
    learned, _ = split(data.load_emoji(options.data), data.read_labels(options.base / "captions.json"))
    prepare_folder(options.out, options.init, shipped, WIRING, ("unet", "vae"))
    for name in _TEXT:
        copy_component(options.base / name, options.out / name)
    space = Workspace(
        out=options.out,
        init=options.init,
        architecture=shipped,
        emoji=learned,
        images=data.images(learned).to(options.device),
    )
    session = Session(resume=options.resume, minutes=options.minutes, save_every=options.save_every, report=report)
    names = ("steps", "batch", "lr", "warmup", "seed")
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    table = {
        "vae": TrainingStage(
            defaults=Options(steps=700, batch=8, lr=5e-4, decay=0.99),
            task=upscaler_vae_task,
            write=write_upscaler_vae,
        ),
        "unet": TrainingStage(
            defaults=Options(steps=1800, batch=16, lr=1e-3, decay=0.998),
            task=functools.partial(upscaler_task, base=options.base),
            write=write_upscaler,
        ),
    }
    for stage in table if options.stage == "all" else (options.stage,):
        if not run_stage(stage, space, session, changes, table):
            break


def _crop(values: torch.Tensor, picked: Sequence[int], corners: Sequence[Sequence[int]]) -> torch.Tensor:
    pairs = zip(picked, corners, strict=True)
    return torch.stack([values[i, :, y : y + _CROP, x : x + _CROP] for i, (y, x) in pairs])


@torch.no_grad()
def _soft(space: Workspace, base: Path, seed: int) -> torch.Tensor:
    """Send the images that the base knows through its autoencoder, latents disturbed; float32 (N, 3, 64, 64)."""
    vae = load_network(AutoencoderKL, base / "vae").to(space.device)
    names = set(data.read_labels(base / "captions.json"))
    rows = [i for i, one in enumerate(space.emoji) if one.label in names]
    latents, _ = encode(vae, space.images[rows])
    noise = draw_normal(latents, torch.Generator().manual_seed(seed))
    latents = latents + _DISTURBANCE * latents.std() * noise
    soft = space.images.clone()
    soft[rows] = torch.cat([vae.decode(part).sample.clamp(-1, 1) for part in torch.split(latents, 32)])
    return soft


@torch.no_grad()
def _words(space: Workspace) -> torch.Tensor:
    """Run the text encoder on the captions of every emoji and the empty one, float32 (N, 3, 77, width)."""
    tokenizer = CLIPTokenizer.from_pretrained(space.out / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(space.out / "text_encoder", use_safetensors=True).float().eval()
    rows = []
    for one in space.emoji:
        captions = [*(template.format(one.label) for template in _TEMPLATES), ""]
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        rows.append(encoder(ids).last_hidden_state)
    return torch.stack(rows)
