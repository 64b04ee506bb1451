"""The ControlNet for edges: a small encoder beside the frozen base that encodes positions."""

import copy
import inspect
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn
from torch.nn import functional

from diffoundry_models.emoji.training.checkpoint import load_network, write_component
from diffoundry_models.emoji.training.companion import graphed, load_base
from diffoundry_models.emoji.training.edges import edges
from diffoundry_models.emoji.training.loop import Options, TrainingTask
from diffoundry_models.emoji.training.motion import draw_motion, move
from diffoundry_models.emoji.training.workspace import Workspace

__all__ = ["ENCODER", "controlnet_task", "new_controlnet", "write_controlnet"]

ENCODER = "checkpoints/moved_vae"

_EMPTY = 0.3
_READERS = (32, 64, 96, 128)  # channels of the layers that read the edges: 64 pixels become 8


def controlnet_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the task: MSE on v for images moved at random, with their edges as the condition and the base frozen.

    Zhang, Rao and Agrawala 2023, section 3.3, https://arxiv.org/abs/2302.05543; three captions in ten are empty.

    Args:
        space: its images are twice as large, for `move`; its folder holds the stage `encoder`'s autoencoder.
        options: of the stage.
    """
    base = load_base(space.init or space.architecture, space.emoji, space.device, options.seed)
    vae = load_network(AutoencoderKL, space.component(ENCODER, "encoder")).to(space.device).requires_grad_(False)
    torch.manual_seed(options.seed)
    controlnet = new_controlnet(base.unet).to(space.device).train()

    def batch(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        draw = base.draw(options.batch, _EMPTY, generator)
        images = move(space.images[draw.picked], draw_motion(options.batch, generator))
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
        noisy, target = base.noised(latents, draw.steps, generator)
        return noisy, draw.steps, draw.words, edges(images).expand(-1, 3, -1, -1).contiguous(), target

    objective = graphed(_Objective(base.unet, controlnet), batch(torch.Generator().manual_seed(options.seed)))
    return TrainingTask(
        stage="controlnet",
        module=controlnet,
        loss=lambda generator: objective(*batch(generator)),
        data=space.fingerprint,
    )


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Make a ControlNet that changes nothing yet: the UNet's encoder with a smaller middle, and zero convolutions.

    The middle block is one residual block without attention, so that the weights stay below 5 MB in float16.
    """
    known = inspect.signature(ControlNetModel).parameters
    config = {name: value for name, value in unet.config.items() if name in known}
    changes = {"mid_block_type": "UNetMidBlock2D", "conditioning_embedding_out_channels": _READERS}
    controlnet = ControlNetModel(**{**config, **changes})
    theirs, mine = unet.state_dict(), controlnet.state_dict()
    shared = {name: theirs[name] for name in mine if name in theirs and theirs[name].shape == mine[name].shape}
    controlnet.load_state_dict(shared, strict=False)
    return controlnet


def write_controlnet(controlnet: ControlNetModel, out: Path) -> None:
    """Save it in float16: its two files are replaced one by one, each whole."""
    scratch = out / "checkpoints" / "written"
    write_component(copy.deepcopy(controlnet).half(), scratch)
    for file in sorted(scratch.iterdir()):
        file.replace(out / file.name)
    scratch.rmdir()


class _Objective(nn.Module):
    def __init__(self, unet: Any, controlnet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet

    def forward(
        self,
        noisy: torch.Tensor,
        steps: torch.Tensor,
        words: torch.Tensor,
        lines: torch.Tensor,
        target: torch.Tensor,
    ) -> torch.Tensor:
        down, middle = self.controlnet(noisy, steps, words, controlnet_cond=lines, return_dict=False)
        output = self.unet(
            noisy, steps, words, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        return functional.mse_loss(output, target)
