"""Latents of images that the autoencoder was not trained on, found through its frozen decoder."""

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from diffoundry_models.emoji.training.checkpoint import load_network, write_component
from diffoundry_models.emoji.training.companion import graphed
from diffoundry_models.emoji.training.loop import Options, TrainingTask
from diffoundry_models.emoji.training.motion import draw_motion, move
from diffoundry_models.emoji.training.vae import encode, reconstruction_loss
from diffoundry_models.emoji.training.workspace import Workspace, draw_indices

__all__ = ["encoder_task", "find_latents", "write_encoder"]

_STEPS = 400
_RATE = 0.05
_PENALTY = 2e-3  # on the latents' square: latents far from the normal distribution are useless


def find_latents(vae: AutoencoderKL, images: torch.Tensor, steps: int = _STEPS) -> torch.Tensor:
    """Find the latents whose decoding is closest to each image, by gradient descent (Adam) from the encoder's result.

    Args:
        vae: its weights must not need gradients.
        images: float32 (N, 3, H, W), -1 to 1.
        steps: of the descent.

    Returns:
        float32 (N, 4, H/8, W/8), unscaled.
    """
    latents = encode(vae, images)[0].requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=_RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
        optimizer.zero_grad()
        # An image's gradient must not depend on how many there are, or Adam's epsilon would count.
        loss = reconstruction_loss(vae.decode(latents).sample, images) + _PENALTY * latents.square().mean()
        torch.autograd.backward(loss * len(images))
        optimizer.step()
    return latents.detach()


def encoder_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the task: an encoder for moved images, which the base blurs because it has seen each in one place only.

    In one pass it finds the latents of `find_latents`. Only the training of the companion for edges needs it.

    Args:
        space: its images are twice as large, for `move`.
        options: of the stage.
    """
    vae = load_network(AutoencoderKL, (space.init or space.architecture) / "vae").to(space.device).train()
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(False)

    def batch(generator: torch.Generator) -> torch.Tensor:
        picked = draw_indices(options.batch, len(space.images), generator, space.device)
        return move(space.images[picked], draw_motion(options.batch, generator))

    objective = graphed(_Objective(vae), [batch(torch.Generator().manual_seed(options.seed))])
    return TrainingTask(
        stage="encoder", module=vae, loss=lambda generator: objective(batch(generator)), data=space.fingerprint
    )


def write_encoder(vae: AutoencoderKL, folder: Path) -> None:
    """Save the autoencoder with its new encoder, in float32."""
    write_component(copy.deepcopy(vae), folder)


class _Objective(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        latents = self.vae.encode(images).latent_dist.mean
        penalty: torch.Tensor = _PENALTY * latents.square().mean()
        return reconstruction_loss(self.vae.decode(latents).sample, images) + penalty
