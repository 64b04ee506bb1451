"""The pixel model: an unconditional UNet that learns v of small images."""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn
from torch.nn import functional

from diffoundry_models.emoji.training import data
from diffoundry_models.emoji.training.checkpoint import load_network, prepare_folder, write_component
from diffoundry_models.emoji.training.command import report
from diffoundry_models.emoji.training.loop import Options, Session, TrainingTask
from diffoundry_models.emoji.training.stages import TrainingStage, run_stage
from diffoundry_models.emoji.training.workspace import Workspace, draw_indices, draw_normal

__all__ = ["FACTOR", "STAGES", "pixels_task", "train_pixels", "write_pixels"]

FACTOR = 2  # pixels of an emoji's image for one of this model
_GAMMA = 5.0
_WIRING = ("model_index.json", "scheduler/scheduler_config.json")


def pixels_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the task: MSE on v over random images and steps, weighted by min(SNR, 5) / (SNR + 1).

    This is the error of the clean image times min(SNR, 5): little effort goes to steps with hardly any noise. Hang et
    al. 2023, section 3.4, https://arxiv.org/abs/2303.09556. The network runs in bfloat16, its weights stay float32.
    """
    if space.init is not None:
        unet = load_network(UNet2DModel, space.init / "unet")
    else:
        torch.manual_seed(options.seed)
        unet = UNet2DModel.from_config(UNet2DModel.load_config(space.architecture / "unet"))
    unet.to(space.device).train()
    scheduler = DDPMScheduler.from_pretrained(space.architecture / "scheduler")
    weights = _weights(scheduler).to(space.device)
    images = functional.avg_pool2d(space.images, FACTOR)

    def loss(generator: torch.Generator) -> torch.Tensor:
        clean = images[draw_indices(options.batch, len(images), generator, space.device)]
        steps = draw_indices(options.batch, scheduler.config.num_train_timesteps, generator, space.device)
        noise = draw_normal(clean, generator)
        with torch.autocast(space.device.type, torch.bfloat16):
            output = unet(scheduler.add_noise(clean, noise, steps), steps).sample
        error = output.float() - scheduler.get_velocity(clean, noise, steps)
        weighted: torch.Tensor = weights[steps] * error.square().mean((1, 2, 3))
        return weighted.mean()

    return TrainingTask(stage="unet", module=unet, loss=loss, data=space.fingerprint)


def write_pixels(space: Workspace, unet: nn.Module) -> None:
    """Save the UNet in float16."""
    half: Any = copy.deepcopy(unet).half()
    write_component(half, space.out / "unet")


STAGES = {
    "unet": TrainingStage(
        defaults=Options(steps=1250, batch=32, lr=1.5e-3, decay=0.998), task=pixels_task, write=write_pixels
    )
}


def train_pixels(options: argparse.Namespace, shipped: Path) -> None:
    """Train the UNet on the images of some labels, from scratch or from the weights in `options.init`.

    Args:
        options: of the command.
        shipped: folder of the model: its configs, and its labels.
    """
    emoji = data.select(data.load_emoji(options.data), data.read_labels(shipped / "captions.json"))
    prepare_folder(options.out, options.init, shipped, _WIRING, ("unet",))
    data.write_captions(emoji, options.out / "captions.json")
    space = Workspace(
        out=options.out,
        init=options.init,
        architecture=shipped,
        emoji=emoji,
        images=data.images(emoji).to(options.device),
    )
    session = Session(resume=options.resume, minutes=options.minutes, save_every=options.save_every, report=report)
    names = ("steps", "batch", "lr", "warmup", "seed")
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    run_stage("unet", space, session, changes, STAGES)


def _weights(scheduler: DDPMScheduler) -> torch.Tensor:
    """Compute min(SNR, 5) / (SNR + 1) for every step, float32 (T,)."""
    kept = scheduler.alphas_cumprod
    ratio = kept / (1 - kept)
    weights: torch.Tensor = ratio.clamp(max=_GAMMA) / (ratio + 1)
    return weights
